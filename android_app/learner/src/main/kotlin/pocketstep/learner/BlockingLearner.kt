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
        adopt(store.load() ?: initialSnapshot(bundle))
    }

    /** All classes, the learned ones among them, in the order of their slots. */
    public val classes: List<String> get() = guarded { state.classes }

    /** What is known and stored. */
    public fun status(): Status =
        guarded {
            val mask = state.values.getValue(MASK).data
            val samples = state.samples
            Status(
                bundle = manifest.name,
                version = state.version,
                updates = state.updates,
                classes = state.classes,
                notYetLearned = state.classes.filterIndexed { slot, _ -> mask[slot] == 0f },
                freeSlots = slots - state.classes.size,
                storedSamples =
                    state.classes.withIndex().associate { (slot, name) -> name to samples.labels.count { it == slot } },
                pendingSamples = samples.pending.count { it },
                canRollBack = state.beforeUpdate != null,
                notes = store.notes.toList(),
            )
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
     * Stores labelled images as int8 latents, for the next update; every fifth is held back to judge it. The images
     * themselves are not kept.
     *
     * @return how many images were stored.
     * @throws InputException for unusable images, or an unknown class.
     */
    public fun observe(
        images: Images,
        label: String,
    ): Int =
        guarded {
            if (label !in state.classes) {
                throw InputException(
                    "no class '$label' here; add_class('$label') first. Known: ${state.classes.joinToString(", ")}",
                )
            }
            val new = newSamples(encode(images), state.classes.indexOf(label))
            var chunks = state.chunks + replay.append(new)
            var samples = state.samples + new
            if (replay.overLimit(chunks)) {
                replay.compact(samples, state.version.toLong()).let { (kept, rest) ->
                    chunks = kept
                    samples = rest
                }
            }
            save(state.values, samples, state.info + ("chunks" to chunks.map(Chunk::toInfo)))
            collectGarbage()
            new.size
        }

    /**
     * Learns what was observed since the last update; keeps the result only when known classes survive it.
     *
     * @param method a schedule of the manifest; `auto` takes the best phase on held-back samples.
     * @param onProgress called after every step; an exception raised there cancels the update.
     * @throws InputException if nothing was observed, or the method is unknown.
     * @throws CheckFailedException if the memory budget was exceeded; the state is as before.
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
            val mask = known.data.copyOf()
            samples.where { samples.pending[it] }.forEach { mask[samples.labels[it]] = 1f }
            val run =
                Update(
                    machine,
                    state.values + (MASK to FloatTensor(known.shape, mask)),
                    known,
                    cloud + samples,
                    schedule,
                    method,
                    Meter(budget),
                    SplitMix((state.version.toLong() shl Int.SIZE_BITS) xor state.updates.toLong()),
                    onProgress::onProgress,
                )
            val (report, values) = run.run()
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
            val earlier = Chunk.listOf(before.info)
            val samples = replay.load(earlier, before.tensors) + later
            val chunks = earlier + replay.append(later)
            val values = state.values.keys.associateWith { before.tensors.getValue(it).toFloats() }
            val info = before.info + mapOf("classes" to state.classes, "chunks" to chunks.map(Chunk::toInfo))
            save(values, samples, info - setOf("before_update", "keep"))
            collectGarbage()
        }

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
        adopt(store.save(values.filterKeys(stateNames::contains).mapValues { Tensor.of(it.value) } + samples.flags(), info))
    }

    private val stateNames: Set<String> get() = manifest.state.map { it.name }.toSet()

    private fun adopt(snapshot: Snapshot) {
        state = LearnerState.of(snapshot, manifest, replay)
    }

    private fun collectGarbage() = replay.collectGarbage(store.infos().flatMap(Chunk::listOf))

    private fun encode(images: Images): FloatTensor =
        machine.inBatches("encode", emptyMap(), "images", images.rowsFor(manifest.task.input), "latents")

    private fun newSamples(
        latents: FloatTensor,
        label: Int,
    ): Samples {
        val count = latents.shape[0]
        val known = state.samples
        val seen = known.where { known.labels[it] == label && known.pending[it] }.size
        return Samples(
            manifest.latent.shape,
            slots,
            ByteArray(latents.data.size) { Math.rint(latents.data[it].toDouble()).coerceIn(LOWEST, HIGHEST).toInt().toByte() },
            IntArray(count) { label },
            FloatArray(count * slots),
            BooleanArray(count),
            BooleanArray(count) { (seen + it) % HELD_BACK_EVERY == HELD_BACK_EVERY - 1 },
            ByteArray(count) { Samples.DEVICE },
            BooleanArray(count) { true },
        )
    }

    private fun <T> guarded(use: () -> T): T =
        guard.withLock {
            if (closing) throw closed()
            use()
        }

    private fun closed() = InputException("this learner was closed; open it again")

    public companion object {
        private const val MASK = "class_mask"
        private const val LONGEST_NAME = 200
        private const val LOWEST = -128.0
        private const val HIGHEST = 127.0

        /** Every fifth observed image judges updates instead of training them. */
        private const val HELD_BACK_EVERY = 5

        /**
         * Opens a bundle and what the device has learned with it.
         *
         * @param bundle a folder or a zip.
         * @param state folder for what is learned; made when missing.
         * @throws BundleException for a missing, incomplete, damaged or newer bundle.
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
        ): BlockingLearner {
            val opened = Bundle.open(bundle)
            val machine = Machine(opened.manifest, openProgram(opened, runtime, options.threads))
            var lock: Closeable? = null
            try {
                lock = FolderLock(state)
                val store = StateStore(state, opened.digest)
                val manifest = opened.manifest
                val replay = ReplayStore(state, manifest.latent.shape, manifest.task.slots, options.storeBytes)
                return BlockingLearner(opened, store, replay, lock, machine)
            } catch (reason: Throwable) {
                lock?.close()
                machine.close()
                throw reason
            }
        }
    }
}

/** Hears of every training step, on the thread that trains. */
public fun interface ProgressListener {
    public fun onProgress(progress: Progress)
}
