package pocketstep.learner

import java.io.Closeable
import java.nio.file.Path
import java.util.concurrent.locks.ReentrantLock
import kotlin.concurrent.withLock

/**
 * A bundle opened on a device, for Java and for threads of your own: calls block, one at a time. In Kotlin take
 * [Learner], which suspends.
 *
 * Every change is on disk when the call returns, or did not happen.
 */
public class BlockingLearner internal constructor(
    public val bundle: Bundle,
    private val store: StateStore,
    private val replay: ReplayStore,
    private val lock: Closeable,
    private val machine: Machine,
) : Closeable {
    private val guard = ReentrantLock()
    private val manifest = bundle.manifest
    private val slots = manifest.task.slots
    private val closedForm = ClosedForm(machine)
    private val fingerprint by lazy { Fingerprint.of(machine) }
    private val cloud = cloudSamples(bundle)

    @Volatile private var closing = false
    private lateinit var state: LearnerState

    /** Called before every call of the program; an exception raised there cancels what is going on. */
    internal var onCheckpoint: () -> Unit = {}

    init {
        machine.checkpoint = {
            if (closing) throw closed()
            onCheckpoint()
        }
        val initial = initialSnapshot(bundle)
        adopt(store.load() ?: initial)
    }

    /** All classes, the learned ones among them, in the order of their slots. */
    public val classes: List<String> get() = guarded { state.classes }

    /** What is known and stored. */
    public fun status(): Status =
        guarded {
            state.status(bundle, store.notes.toList())
        }

    /**
     * Labels and probabilities.
     *
     * @throws InputException for images of another shape, with NaN, or with values out of range.
     */
    public fun classify(images: Images): Prediction =
        guarded {
            val latents = Rows.of(encode(images))
            val mask = state.values.getValue(MASK).data
            val learned = state.classes.indices.filter { mask[it] > 0 }
            val outputs = machine.inBatches("classify", state.values, "latents", latents, "probabilities").data
            val rows = List(images.count) { row -> FloatArray(learned.size) { outputs[row * slots + learned[it]] } }
            val names = learned.map { state.classes[it] }
            Prediction(rows.map { names[argMax(it, 0, it.size)] }, rows, names)
        }

    /**
     * Gives a new class a spare slot; it is predicted after the next update.
     *
     * @throws InputException if the name is taken or unusable, or no slot is free.
     */
    public fun addClass(name: String): Unit =
        guarded {
            if (name.isEmpty() || name.points > LONGEST_NAME || !name.codePoints().allMatch(::isPrintable)) {
                throw InputException("${quoted(name)} is no class name; use 1 to $LONGEST_NAME printable characters")
            }
            if (name in state.classes) {
                throw InputException("there is a class '$name' already; observe images of it, no need to add it")
            }
            if (state.classes.size == slots) {
                throw InputException("all $slots class slots are taken; build the bundle again with more spare classes")
            }
            save(state.values, state.samples, state.info + ("classes" to state.classes + name))
        }

    /**
     * Stores labelled images as int8 latents, for the next update; every fifth is held back to judge it. The others join
     * the closed form's statistics at once. The images themselves are not kept.
     *
     * @return how many images were stored: those whose latents the class does not hold yet.
     * @throws InputException for unusable images, or an unknown class.
     */
    public fun observe(
        images: Images,
        label: String,
    ): Int =
        guarded {
            val codes = codes(encode(images))
            if (label !in state.classes) {
                throw InputException(
                    "no class '$label' here; add_class('$label') first. Known: ${state.classes.joinToString(", ")}",
                )
            }
            val slot = state.classes.indexOf(label)
            val size = codes.size / images.count
            val unseen = state.samples.unseen(codes, slot)
            val new = ByteArray(unseen.size * size)
            unseen.forEachIndexed { index, row -> codes.copyInto(new, index * size, row * size, (row + 1) * size) }
            val seen = state.samples.where { state.samples.labels[it] == slot && state.samples.pending[it] }.size
            if (unseen.isNotEmpty()) take(Samples.observed(manifest.latent.shape, slots, new, slot, seen))
            unseen.size
        }

    /** Stores samples for the next update. */
    private fun take(new: Samples) {
        val values = closedForm.observed(state.values, new.select(new.where { !new.heldBack[it] }))
        var chunks = state.chunks + replay.append(new)
        var samples = state.samples + new
        if (replay.overLimit(chunks)) {
            replay.compact(samples, state.version.toLong()).let { (kept, rest) ->
                chunks = kept
                samples = rest
            }
        }
        save(values, samples, state.info + ("chunks" to chunks.map(Chunk::toInfo)))
        collectGarbage()
    }

    /**
     * Learns what was observed since the last update; keeps the result only when known classes survive it.
     *
     * @param method a schedule of the manifest; `auto` takes the best phase on held-back samples.
     * @param onProgress called after every step; an exception raised there cancels the update.
     * @throws InputException if nothing was observed, or the method is unknown.
     * @throws CheckFailedException if memory, disk or battery won't do, by a forecast before it begins; or it took more
     * memory than its budget. The state is as before.
     */
    @JvmOverloads
    public fun update(
        budget: Budget = Budget(),
        method: String = Update.AUTO,
        onProgress: ProgressListener = ProgressListener {},
    ): UpdateReport =
        guarded {
            val schedule =
                manifest.schedules[method] ?: throw InputException(
                    "unknown method '$method'; this bundle has ${manifest.schedules.keys.sortedWith(codePointOrder).joinToString(", ")}",
                )
            val samples = state.samples
            if (samples.pending.none { it }) {
                throw InputException("nothing was observed since the last update; observe labelled images first")
            }
            val known = state.values.getValue(MASK)
            val count = state.values.required("count").data
            val mask = FloatArray(slots) { if (count[it] > 0) 1f else known.data[it] }
            samples.where { samples.pending[it] }.forEach { mask[samples.labels[it]] = 1f }
            val all = cloud + samples
            val phases = schedule.phases.size
            Forecast
                .of(manifest, machine.runtimeName, cloud.size, samples.size, phases)
                .checkRoom(budget, machine.takenMb, store.folder)
            val (report, values) =
                machine.withThreads(budget.threads) { program ->
                    Update(
                        program,
                        state.values + (MASK to FloatTensor(known.shape, mask)),
                        known,
                        all.select(all.where { mask[all.labels[it]] > 0 }),
                        schedule,
                        method,
                        Meter(budget),
                        SplitMix((state.version.toLong() shl Int.SIZE_BITS) xor state.updates.toLong()),
                        onProgress::onProgress,
                    ).run()
                }
            if (report.accepted) keepUpdate(values)
            report
        }

    /**
     * Takes back the last accepted update; observed images and added classes stay and can be learned again.
     *
     * @throws StateException if there is no update to take back.
     */
    public fun rollback(): Unit =
        guarded {
            val version =
                state.beforeUpdate
                    ?: throw StateException("there is no update to roll back; the state is that of the bundle or was rolled back")
            val before = store.loadVersion(version)
            val later = state.samples.select(state.samples.where { state.samples.pending[it] }) // observed since then
            val earlier = recovered(before)
            val chunks = earlier.chunks + replay.append(later)
            var values = state.values.keys.associateWith { before.tensors.getValue(it).toFloats() }
            values =
                if (sameFeatures(values)) {
                    values + ClosedForm.STATISTICS.filter(values::containsKey).associateWith(state.values::getValue)
                } else {
                    closedForm.observed(values, later.select(later.where { !later.heldBack[it] }))
                }
            val info = before.info + mapOf("classes" to state.classes, "chunks" to chunks.map(Chunk::toInfo))
            save(values, earlier.samples + later, info - ROLLBACK)
            collectGarbage()
        }

    /**
     * Takes a class out: its samples, its part of the closed form's statistics, its place among the answers. Its slot
     * stays taken and its name known, so that it can be taught again; what gradient steps learned from it stays.
     *
     * @throws InputException if there is no such class, or it is the only one.
     */
    public fun forget(label: String): Unit =
        guarded {
            if (label !in state.classes) {
                throw InputException("no class '$label' here. Known: ${state.classes.joinToString(", ")}")
            }
            val slot = state.classes.indexOf(label)
            val known = state.values.getValue(MASK)
            val mask = FloatTensor(known.shape, known.data.copyOf().also { it[slot] = 0f })
            if (mask.data.all { it == 0f }) {
                throw InputException("'$label' is the only class that is known; teach another one first")
            }
            val samples = state.samples
            val counted = samples.select(samples.where { samples.labels[it] == slot && !samples.heldBack[it] })
            val values = closedForm.forgotten(state.values + (MASK to mask), slot, counted)
            val rest = samples.select(samples.where { samples.labels[it] != slot })
            val chunks = replay.append(rest)
            save(values, rest, state.info - ROLLBACK + ("chunks" to chunks.map(Chunk::toInfo)))
            collectGarbage()
        }

    /** Whether other values make the same features as the present ones: only heads differ. */
    private fun sameFeatures(values: Values): Boolean =
        manifest.state
            .filter { it.kind == "parameter" && !it.name.startsWith("head.") }
            .all { values.getValue(it.name).data.contentEquals(state.values.getValue(it.name).data) }

    /** Ends what is going on, and lets others use the state. */
    override fun close() {
        closing = true
        guard.withLock {
            machine.close()
            lock.close()
        }
    }

    private fun keepUpdate(values: Values) {
        val version = state.version.toLong()
        val changes = mapOf("updates" to state.updates + 1L, "before_update" to version, "keep" to listOf(version))
        save(values, state.samples.settled(), state.info + changes)
    }

    private fun save(
        values: Values,
        samples: Samples,
        info: Map<String, Any?>,
    ) {
        if (closing) throw closed()
        val tensors = manifest.state.associate { it.name to Tensor.of(values.required(it.name)) }
        adopt(store.save(tensors + samples.flags() + fingerprint, info))
    }

    private fun recovered(snapshot: Snapshot): ReplayStore.Recovered {
        val found = replay.recover(Chunk.listOf(snapshot.info), snapshot.tensors)
        found.notes.filterNot(store.notes::contains).forEach(store.notes::add)
        return found
    }

    private fun adopt(snapshot: Snapshot) {
        val values = checkedValues(snapshot, manifest, "The saved state in ${store.folder}", asState)
        val found = recovered(snapshot)
        val info = snapshot.info + ("chunks" to found.chunks.map(Chunk::toInfo))
        state = LearnerState(snapshot.version, values, found.samples, found.chunks, info)
    }

    private fun collectGarbage() = replay.collectGarbage(store.infos().flatMap(Chunk::listOf))

    private fun encode(images: Images): FloatTensor =
        machine.inBatches("encode", emptyMap(), "images", images.rowsFor(manifest.task.input), "latents")

    private fun <T> guarded(use: () -> T): T =
        guard.withLock {
            if (closing) throw closed()
            use()
        }

    private fun closed() = InputException("this learner was closed; open it again")

    public companion object {
        private const val MASK = "class_mask"
        private const val LONGEST_NAME = 200
        private val ROLLBACK = setOf("before_update", "keep")

        /**
         * Opens a bundle and what the device has learned with it.
         *
         * @param bundle a folder or a zip.
         * @param state folder for what is learned; made when missing.
         * @throws BundleException for a missing, incomplete, damaged, newer or untrusted bundle, or one of a lower release than
         * this state has had.
         * @throws StateException if the state belongs to another bundle, is damaged, or is in use.
         * @throws MissingToolException if the runtime's native library is not there.
         */
        @JvmStatic
        @JvmOverloads
        public fun open(
            bundle: Path,
            state: Path,
            runtime: Runtime,
            options: Options = Options(),
        ): BlockingLearner = openLearner(bundle, state, runtime, options)
    }
}
