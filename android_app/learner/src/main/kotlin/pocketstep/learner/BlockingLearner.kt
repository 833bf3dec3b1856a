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
    store: StateStore,
    replay: ReplayStore,
    private val lock: Closeable,
    private val machine: Machine,
) : Closeable {
    private val guard = ReentrantLock()
    private val manifest = bundle.manifest
    private val slots = manifest.task.slots
    private val replayed = cloudSamples(bundle).size // read again when an update wants them: most of the time none does

    @Volatile private var closing = false

    /** Called before every call of the program and before anything is written; an exception raised there cancels what is going on. */
    internal var onCheckpoint: () -> Unit = {}

    internal val knowledge: Knowledge
    private val state: LearnerState get() = knowledge.state

    init {
        machine.checkpoint = {
            checkOpen()
            onCheckpoint()
        }
        knowledge = Knowledge(bundle, store, replay, machine)
    }

    /** All classes, the learned ones among them, in the order of their slots. */
    public val classes: List<String> get() = guarded { state.classes }

    /** What is known and stored. */
    public fun status(): Status = guarded { knowledge.status() }

    /**
     * Labels and probabilities.
     *
     * @throws InputException for images of another shape, with NaN, or with values out of range.
     */
    public fun classify(images: Images): Prediction = guarded { classify(Rows.of(encode(images))) }

    /** As the public one, of latents. */
    internal fun classify(latents: Rows): Prediction {
        val mask = state.values.getValue(Knowledge.MASK).data
        val learned = state.classes.indices.filter { mask[it] > 0 }
        val outputs = machine.inBatches("classify", state.values, "latents", latents, "probabilities").data
        val rows = List(latents.count) { row -> FloatArray(learned.size) { outputs[row * slots + learned[it]] } }
        val names = learned.map { state.classes[it] }
        return Prediction(rows.map { names[argMax(it, 0, it.size)] }, rows, names)
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
            knowledge.addClass(name)
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
    ): Int = guarded { observe(codes(encode(images)), images.count, label) }

    /** As the public one, of [count] latents. */
    internal fun observe(
        codes: ByteArray,
        count: Int,
        label: String,
    ): Int {
        if (label !in state.classes) {
            throw InputException("no class '$label' here; add_class('$label') first. Known: ${state.classes.joinToString(", ")}")
        }
        val slot = state.classes.indexOf(label)
        val size = codes.size / count
        val unseen = state.samples.unseen(codes, slot)
        val new = ByteArray(unseen.size * size)
        unseen.forEachIndexed { index, row -> codes.copyInto(new, index * size, row * size, (row + 1) * size) }
        val seen = state.samples.where { state.samples.labels[it] == slot && state.samples.pending[it] }.size
        if (unseen.isNotEmpty()) knowledge.take(Samples.observed(manifest.latent.shape, slots, new, slot, seen))
        return unseen.size
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
    ): UpdateReport = guarded { learn(null, budget, method, onProgress) }

    /**
     * Learns what was observed, and what a teacher said of images without labels. Classes that only the teacher knows
     * take free slots. The pack's samples are not stored; the closed form's statistics keep what they say.
     *
     * @param targets a file of `pocketstep targets`, made for this bundle.
     * @throws InputException for a pack that is damaged, another bundle's, or of more classes than there are free slots; or
     * an unknown method.
     * @throws CheckFailedException as for the other one.
     */
    @JvmOverloads
    public fun update(
        targets: Path,
        budget: Budget = Budget(),
        method: String = TargetPack.METHOD,
        onProgress: ProgressListener = ProgressListener {},
    ): UpdateReport = guarded { learn(TargetPack.read(targets, bundle), budget, method, onProgress) }

    private fun learn(
        pack: TargetPack?,
        budget: Budget,
        method: String,
        onProgress: ProgressListener,
    ): UpdateReport {
        val schedule = scheduleOf(method, pack)
        val samples = state.samples
        val known = state.values.getValue(Knowledge.MASK)
        val count = state.values.required("count").data
        val mask = FloatArray(slots) { if (count[it] > 0) 1f else known.data[it] }
        samples.where { samples.pending[it] }.forEach { mask[samples.labels[it]] = 1f }
        val classes = pack?.withClasses(state.classes, slots) ?: state.classes
        Forecast
            .of(manifest, machine.runtimeName, replayed, samples.size + (pack?.size ?: 0), schedule.training)
            .checkRoom(budget, machine.takenMb, knowledge.store.folder)
        val (report, values) =
            inMemory(budget.threads) { program ->
                val meter = Meter(budget)
                val stored = knownSamples(mask)
                val lesson = pack?.lesson(classes, manifest)
                lesson?.taught?.data?.forEachIndexed { slot, taught -> mask[slot] = maxOf(mask[slot], taught) }
                Update(
                    program,
                    knowledge.counting(lesson) + (Knowledge.MASK to FloatTensor(known.shape, mask)),
                    known,
                    if (lesson == null) stored else stored + lesson.samples,
                    schedule,
                    method,
                    meter,
                    SplitMix((state.version.toLong() shl Int.SIZE_BITS) xor state.updates.toLong()),
                    onProgress::onProgress,
                    lesson,
                ).run()
            }
        if (report.accepted) knowledge.keepUpdate(values, classes, taught = pack != null)
        return report
    }

    /** The cloud's samples and the device's own, of the classes in a mask. */
    private fun knownSamples(mask: FloatArray): Samples {
        val all = cloudSamples(bundle) + state.samples
        val wanted = all.where { mask[all.labels[it]] > 0 }
        return if (wanted.size == all.size) all else all.select(wanted)
    }

    /** What a method means, if it can be run with a pack or without one. */
    private fun scheduleOf(
        method: String,
        pack: TargetPack?,
    ): Schedule {
        val older = if (method == TargetPack.METHOD) "; it was built before there were target packs" else ""
        val schedule =
            manifest.schedules[method] ?: throw InputException(
                "unknown method '$method'; this bundle has " +
                    manifest.schedules.keys
                        .sortedWith(codePointOrder)
                        .joinToString(", ") + older,
            )
        if (pack == null && method == TargetPack.METHOD) {
            throw InputException("the method '$method' learns from a target pack; give one made by 'pocketstep targets'")
        }
        if (pack == null && state.samples.pending.none { it }) {
            throw InputException("nothing was observed since the last update; observe labelled images first")
        }
        return schedule
    }

    /**
     * Takes back the last accepted update; observed images and added classes stay and can be learned again.
     *
     * @throws StateException if there is no update to take back.
     */
    public fun rollback(): Unit = guarded { knowledge.rollback() }

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
            val known = state.values.getValue(Knowledge.MASK)
            val mask = FloatTensor(known.shape, known.data.copyOf().also { it[slot] = 0f })
            if (mask.data.all { it == 0f }) {
                throw InputException("'$label' is the only class that is known; teach another one first")
            }
            knowledge.forget(slot, mask)
        }

    /** Ends what is going on, and lets others use the state. */
    override fun close() {
        closing = true
        guard.withLock {
            machine.close()
            lock.close()
        }
    }

    /** Runs on the program with so many threads; what is wrong with the memory becomes an error that says so. */
    private fun <T> inMemory(
        threads: Int?,
        use: (Machine) -> T,
    ): T =
        try {
            machine.withThreads(threads, use)
        } catch (reason: OutOfMemoryError) {
            throw CheckFailedException(
                "the update ran out of memory; nothing was changed. End other programs or build the bundle with a smaller batch",
                reason,
            )
        }

    private fun encode(images: Images): FloatTensor =
        machine.inBatches("encode", emptyMap(), "images", images.rowsFor(manifest.task.input), "latents")

    private fun <T> guarded(use: () -> T): T =
        guard.withLock {
            checkOpen()
            use()
        }

    private fun checkOpen() {
        if (closing) throw InputException("this learner was closed; open it again")
    }

    public companion object {
        private const val LONGEST_NAME = 200

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

        /**
         * Gives a state, learned with an older bundle, to a new one; the older bundle need not be there any more.
         *
         * Where the plans agree, trained tensors, statistics, classes and samples are taken over as they are. Where only
         * the frozen layers do, the new bundle learns the stored samples by an update of its own, which is checked like
         * any other. Everything is decided before anything is written, and then written by one rename. Nobody may have
         * the state open.
         *
         * @param bundle the new one, a folder or a zip.
         * @param state the folder of what was learned with the older one.
         * @param budget of the update, if there is one; [method] and [onProgress] too, as for [update].
         * @return what became of it; open the new bundle with the same folder then.
         * @throws BundleException as for [open].
         * @throws StateException if the new bundle can't use the state: other frozen layers, too few slots, or a learned
         * class without stored samples. Nothing was changed.
         * @throws CheckFailedException if the update does not fit the budget. Nothing was changed.
         */
        @JvmStatic
        @JvmOverloads
        public fun adopt(
            bundle: Path,
            state: Path,
            runtime: Runtime,
            options: Options = Options(),
            budget: Budget = Budget(),
            method: String = Update.AUTO,
            onProgress: ProgressListener = ProgressListener {},
        ): Adoption = adoptState(bundle, state, runtime, options, {}) { it.update(budget, method, onProgress) }
    }
}
