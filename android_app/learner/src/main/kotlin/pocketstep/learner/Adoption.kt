package pocketstep.learner

import java.nio.file.Path

/**
 * What became of a device's state under a new bundle.
 *
 * @property accepted whether the state is now the new bundle's; when false, everything is as it was.
 * @property how `nothing` (there was no state, or it was this bundle's already), `state` (the plans agree: all was taken
 * over as it is), `samples` (nothing had been learned yet: the new bundle's state, with the observed images to learn
 * from) or `replay` (the plans differ behind the same frozen layers: the new bundle learned the stored samples).
 * @property classes the device's own classes that came along.
 * @property samples how many stored samples came along.
 * @property reason one sentence.
 * @property update of `replay`.
 * @property notes what went wrong without stopping anything, in sentences for the user.
 */
public class Adoption internal constructor(
    public val accepted: Boolean,
    public val how: String,
    public val classes: List<String>,
    public val samples: Int,
    public val reason: String,
    public val update: UpdateReport?,
    public val notes: List<String>,
)

/** A store that writes nothing: what a learner saves in it is kept in memory, to be committed by one write. */
private class Draft(
    folder: Path,
    bundleId: String,
    private val base: Int,
) : StateStore(folder, bundleId) {
    var saved: Snapshot? = null
        private set

    override fun load(anyBundle: Boolean): Snapshot? = saved

    /** Numbers go on from the folder's, so that random choices differ. */
    override fun save(
        tensors: Map<String, Tensor>,
        info: Map<String, Any?>,
    ): Snapshot = Snapshot((saved?.version ?: base) + 1, tensors, info, bundleId).also { saved = it }

    override fun infos(): List<Map<String, Any?>> = super.infos() + listOfNotNull(saved?.info)
}

/**
 * One adoption, under the folder's [lock]: everything is decided before anything is written, and then written by one
 * rename. The same decisions, sentences and bytes as the Python package's `adoption.py`.
 */
internal class Adopter(
    private val bundle: Bundle,
    private val machine: Machine,
    private val folder: Path,
    private val maxBytes: Long,
    private val lock: FolderLock,
) {
    private val manifest = bundle.manifest
    private val known = manifest.task.classes
    private val slots = manifest.task.slots
    private val store = StateStore(folder, bundle.digest, mostBytes(bundle.manifest))
    private val notes = ArrayList<String>()

    /** @param update the learner's own, if the stored samples have to be learned. */
    fun run(update: (BlockingLearner) -> UpdateReport): Adoption {
        val old = store.load(anyBundle = true)
        notes += store.notes
        if (old == null || old.bundle == bundle.digest) {
            val what = if (old == null) "there is no saved state" else "the state is this bundle's already"
            return done("nothing", emptyList(), 0, "$what; nothing to adopt")
        }
        val mask = old.tensors[Knowledge.MASK]
        if (mask == null || mask.shape.size != 1 || !areFacts(old.info, mask.size)) {
            throw StateException("The saved state does not say which classes it has learned. Restore it from a copy.")
        }
        val names = (old.info["classes"] as List<*>).map { it as String }
        val classes = merged(names)
        val mine = Fingerprint.of(machine)
        val learned = old.info["updates"] != 0L
        if (learned && agrees(mine, old, names)) {
            val taken = Snapshot(old.version, old.tensors, old.info.withoutRollback(), old.bundle)
            checkedValues(taken, manifest, "The saved state", asState)
            val count = samplesOf(taken).size
            store.save(taken.tensors, taken.info)
            return done("state", classes.drop(known.size), count, "the plans agree: the state was taken over as it is")
        }
        val samples = samplesOf(old)
        if (samples.size > 0 && !Fingerprint.sameLatents(mine, old.tensors)) throw otherLayers()
        checkLearned(old, names, samples)
        return replay(old, classes, relabelled(samples, names, classes), if (learned) update else null)
    }

    /** A learner on the new bundle, which writes only samples, takes them and learns; then the one write. */
    private fun replay(
        old: Snapshot,
        classes: List<String>,
        samples: Samples,
        update: ((BlockingLearner) -> UpdateReport)?,
    ): Adoption {
        val draft = Draft(folder, bundle.digest, old.version)
        val checkpoint = machine.checkpoint
        val learner = BlockingLearner(bundle, draft, replayStore(slots), lock, machine)
        learner.onCheckpoint = checkpoint
        learner.knowledge.take(samples, classes)
        val report = if (samples.size > 0) update?.invoke(learner) else null
        val accepted = report == null || report.accepted
        if (accepted) draft.saved?.let { store.save(it.tensors, it.info.withoutRollback()) }
        replayStore(slots).collectGarbage(store.infos().flatMap(Chunk::listOf))
        val own = classes.drop(known.size)
        return when {
            report == null -> {
                val reason = "nothing had been learned yet: the new bundle begins with its own state and the observed images"
                done("samples", own, samples.size, reason)
            }

            accepted -> {
                done("replay", own, samples.size, "the new bundle learned the stored samples", report)
            }

            else -> {
                val reason = "the new bundle could not learn the stored samples (${report.reason}); nothing was changed"
                Adoption(false, "replay", emptyList(), 0, reason, report, notes)
            }
        }
    }

    private fun done(
        how: String,
        own: List<String>,
        samples: Int,
        reason: String,
        update: UpdateReport? = null,
    ) = Adoption(true, how, own, samples, reason, update, notes)

    private fun replayStore(slots: Int) = ReplayStore(folder, manifest.latent.shape, slots, maxBytes)

    private fun samplesOf(old: Snapshot): Samples {
        val found = replayStore(old.tensors.getValue(Knowledge.MASK).size).recover(Chunk.listOf(old.info), old.tensors)
        notes += found.notes
        return found.samples
    }

    /** The new bundle's classes, then the device's own. */
    private fun merged(names: List<String>): List<String> {
        val merged = known + names.filterNot(known::contains)
        if (merged.size > slots) {
            throw StateException(
                "The device has ${merged.size - known.size} classes of its own, and the bundle '${manifest.name}' has " +
                    "${slots - known.size} spare slots; nothing was changed. Build it with more spare classes.",
            )
        }
        return merged
    }

    /** Whether the state means the same here: same tensors, same cloud classes, same answers. */
    private fun agrees(
        mine: Map<String, Tensor>,
        old: Snapshot,
        names: List<String>,
    ): Boolean {
        val wanted = manifest.state.associate { it.name to it.shape.map(Int::toLong) }
        val found = old.tensors.filterKeys { it !in Samples.FLAGS && !it.startsWith(Fingerprint.PREFIX) }.mapValues { it.value.shape }
        val sameClasses = old.info["brought"] == known.size.toLong() && names.take(known.size) == known
        return wanted == found && sameClasses && Fingerprint.sameLatents(mine, old.tensors) &&
            Fingerprint.sameAnswers(mine, old.tensors)
    }

    private fun otherLayers() =
        StateException(
            "The frozen layers of the bundle '${manifest.name}' are not those that the stored samples were encoded with, " +
                "and images are never stored, so nothing can be replayed; nothing was changed. Build the bundle on the " +
                "same frozen layers, or begin with another state folder and observe again.",
        )

    /** Every class that the device taught itself needs samples to teach it again. */
    private fun checkLearned(
        old: Snapshot,
        names: List<String>,
        samples: Samples,
    ) {
        val mask = old.tensors.getValue(Knowledge.MASK).toFloats().data
        val lost = names.filterIndexed { slot, name -> slot < mask.size && mask[slot] > 0 && name !in known && slot !in samples.labels }
        if (lost.isNotEmpty()) {
            throw StateException(
                "The plans differ, and no samples of ${lost.joinToString(", ", transform = ::quoted)} are stored to learn " +
                    "them again; nothing was changed. Observe some images of them with the old bundle first.",
            )
        }
    }

    /** In the new bundle's slots, all to be learned anew, without targets of the old one. */
    private fun relabelled(
        samples: Samples,
        names: List<String>,
        classes: List<String>,
    ): Samples {
        if (samples.labels.any { it >= names.size }) {
            throw StateException("The saved state has samples of a class without a name: it was damaged. Restore a copy.")
        }
        val count = samples.size
        return Samples(
            samples.latentShape,
            slots,
            samples.latents,
            IntArray(count) { classes.indexOf(names[samples.labels[it]]) },
            FloatArray(count * slots),
            BooleanArray(count),
            samples.heldBack,
            samples.origin,
            BooleanArray(count) { true },
        )
    }
}
