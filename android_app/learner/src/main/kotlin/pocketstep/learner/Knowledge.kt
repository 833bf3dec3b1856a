package pocketstep.learner

/**
 * What a learner holds: values, samples and notes, as the newest snapshot and its chunks have them; the only place that
 * writes them.
 */
internal class Knowledge(
    private val bundle: Bundle,
    val store: StateStore,
    private val replay: ReplayStore,
    private val machine: Machine,
) {
    private val manifest = bundle.manifest
    private val closedForm = ClosedForm(machine)
    private val fingerprint by lazy { Fingerprint.of(machine) }

    lateinit var state: LearnerState
        private set

    init {
        val initial = initialSnapshot(bundle)
        use(store.load() ?: initial)
    }

    fun status(): Status = state.status(bundle, store.notes.toList())

    fun addClass(name: String) = save(state.values, state.samples, state.info + ("classes" to state.classes + name))

    /** Stores samples of these classes, for the next update; what observing and adopting have in common. */
    fun take(
        new: Samples,
        classes: List<String> = state.classes,
    ) {
        val values = closedForm.observed(state.values, new, new.where { !new.heldBack[it] })
        var chunks = state.chunks + replay.append(new)
        var samples = state.samples + new
        if (replay.overLimit(chunks)) {
            val (kept, rest) = replay.compact(samples)
            chunks = kept
            samples = rest
        }
        save(values, samples, state.info + mapOf("classes" to classes, Chunk.KEY to chunks.map(Chunk::toInfo)))
        collectGarbage()
    }

    /** The values, their statistics with what a lesson says; the state is left as it is. */
    fun counting(lesson: Lesson?): Values {
        val samples = lesson?.samples ?: return state.values
        return closedForm.observed(state.values, samples, samples.where { !samples.heldBack[it] })
    }

    fun rollback() {
        val version =
            state.beforeUpdate
                ?: throw StateException("there is no update to roll back; the state is that of the bundle or was rolled back")
        // 0: the first change was a target pack's, and the bundle has the state
        val before = if (version == 0) initialSnapshot(bundle) else store.loadVersion(version)
        val later = state.samples.select(state.samples.where { state.samples.pending[it] }) // observed since then
        val earlier = recovered(before)
        val chunks = earlier.chunks + replay.append(later)
        var values = state.values.keys.associateWith { before.tensors.getValue(it).toFloats() }
        values =
            if (sameFeatures(values) && state.info[TAUGHT] != true) {
                values + ClosedForm.STATISTICS.filter(values::containsKey).associateWith(state.values::getValue)
            } else {
                closedForm.observed(values, later, later.where { !later.heldBack[it] })
            }
        val info = before.info + mapOf("classes" to state.classes, Chunk.KEY to chunks.map(Chunk::toInfo))
        save(values, earlier.samples + later, info.withoutRollback())
        collectGarbage()
    }

    /** Without the class of a [slot], whose values [mask] has forgotten already. */
    fun forget(
        slot: Int,
        mask: FloatTensor,
    ) {
        val samples = state.samples
        val counted = samples.where { samples.labels[it] == slot && !samples.heldBack[it] }
        val values = closedForm.forgotten(state.values + (MASK to mask), slot, samples, counted)
        val rest = samples.select(samples.where { samples.labels[it] != slot })
        val chunks = replay.append(rest)
        save(values, rest, state.info.withoutRollback() + (Chunk.KEY to chunks.map(Chunk::toInfo)))
        collectGarbage()
    }

    /** Saves an accepted update; [taught] by a target pack, whose part of the statistics goes when it does. */
    fun keepUpdate(
        values: Values,
        classes: List<String>,
        taught: Boolean,
    ) {
        val version = state.version.toLong()
        val info = state.info.withoutRollback() + (if (taught) mapOf(TAUGHT to true) else emptyMap()) + ("classes" to classes)
        val changes = mapOf("updates" to state.updates + 1L, "before_update" to version, "keep" to listOf(version))
        save(values, state.samples.settled(), info + changes)
    }

    /** Whether other values make the same features as the present ones: only heads differ. */
    private fun sameFeatures(values: Values): Boolean =
        manifest.state
            .filter { it.kind == "parameter" && !it.name.startsWith("head.") }
            .all { values.getValue(it.name).data.contentEquals(state.values.getValue(it.name).data) }

    private fun save(
        values: Values,
        samples: Samples,
        info: Map<String, Any?>,
    ) {
        machine.checkpoint() // the last moment at which all can be left as it is
        val tensors = manifest.state.associate { it.name to Tensor.of(values.required(it.name)) }
        use(store.save(tensors + samples.flags() + fingerprint, info))
    }

    private fun recovered(snapshot: Snapshot): ReplayStore.Recovered {
        val found = replay.recover(Chunk.listOf(snapshot.info), snapshot.tensors)
        found.notes.filterNot(store.notes::contains).forEach(store.notes::add)
        return found
    }

    private fun use(snapshot: Snapshot) {
        val values = checkedValues(snapshot, manifest, "The saved state in ${store.folder}", asState)
        val found = recovered(snapshot)
        val info = snapshot.info + (Chunk.KEY to found.chunks.map(Chunk::toInfo))
        state = LearnerState(snapshot.version, values, found.samples, found.chunks, info)
    }

    private fun collectGarbage() = replay.collectGarbage(store.infos().flatMap(Chunk::listOf))

    companion object {
        const val MASK = "class_mask"

        /** In a snapshot's info: a target pack took part in the last update. */
        const val TAUGHT = "taught"
    }
}

/** A snapshot's info that says nothing of an update to take back. */
internal fun Map<String, Any?>.withoutRollback(): Map<String, Any?> = this - setOf("before_update", "keep", Knowledge.TAUGHT)
