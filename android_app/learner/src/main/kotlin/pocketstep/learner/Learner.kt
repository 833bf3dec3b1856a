package pocketstep.learner

import kotlinx.coroutines.CoroutineDispatcher
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.channels.BufferOverflow
import kotlinx.coroutines.currentCoroutineContext
import kotlinx.coroutines.ensureActive
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.MutableSharedFlow
import kotlinx.coroutines.flow.asSharedFlow
import kotlinx.coroutines.sync.Mutex
import kotlinx.coroutines.sync.withLock
import kotlinx.coroutines.withContext
import java.io.Closeable
import java.nio.file.Path

/**
 * A bundle opened on a device: classifies, and learns new classes.
 *
 * All functions suspend, work off the caller's thread, one at a time in the order they were called, and can be
 * cancelled at any step of the program. Every change is on disk when a call returns, or did not happen.
 */
public class Learner internal constructor(
    private val inner: BlockingLearner,
    private val dispatcher: CoroutineDispatcher,
) : Closeable {
    private val turn = Mutex()
    private val steps = MutableSharedFlow<Progress>(extraBufferCapacity = 64, onBufferOverflow = BufferOverflow.DROP_OLDEST)

    /** Every step of updates while they run; the oldest ones are dropped for a slow reader. */
    public val progress: Flow<Progress> = steps.asSharedFlow()

    public val manifest: Manifest get() = inner.bundle.manifest

    /** All classes, the learned ones among them, in the order of their slots. */
    public suspend fun classes(): List<String> = status().classes

    /** See [BlockingLearner.status]. */
    public suspend fun status(): Status = exclusively { status() }

    /** See [BlockingLearner.classify]. */
    public suspend fun classify(images: Images): Prediction = exclusively { classify(images) }

    /** See [BlockingLearner.addClass]. */
    public suspend fun addClass(name: String): Unit = exclusively { addClass(name) }

    /** See [BlockingLearner.observe]. */
    public suspend fun observe(
        images: Images,
        label: String,
    ): Int = exclusively { observe(images, label) }

    /** See [BlockingLearner.update]; steps are told by [progress]. Cancelling it changes nothing. */
    public suspend fun update(
        budget: Budget = Budget(),
        method: String = "auto",
    ): UpdateReport = exclusively { update(budget, method) { steps.tryEmit(it) } }

    /** See the other [BlockingLearner.update]: with a teacher's answers to images without labels. */
    public suspend fun update(
        targets: Path,
        budget: Budget = Budget(),
        method: String = TargetPack.METHOD,
    ): UpdateReport = exclusively { update(targets, budget, method) { steps.tryEmit(it) } }

    /** See [BlockingLearner.rollback]. */
    public suspend fun rollback(): Unit = exclusively { rollback() }

    /** See [BlockingLearner.forget]. */
    public suspend fun forget(label: String): Unit = exclusively { forget(label) }

    /** Ends what is going on, and lets others use the state. */
    override fun close(): Unit = inner.close()

    private suspend fun <T> exclusively(use: BlockingLearner.() -> T): T =
        turn.withLock {
            withContext(dispatcher) {
                val context = currentCoroutineContext()
                inner.onCheckpoint = { context.ensureActive() }
                inner.use()
            }
        }

    public companion object {
        /**
         * Opens a bundle and what the device has learned with it; see [BlockingLearner.open].
         *
         * @param bundle a folder or a zip.
         * @param state folder for what is learned; made when missing.
         * @param dispatcher where the work is done.
         */
        public suspend fun open(
            bundle: Path,
            state: Path,
            runtime: Runtime,
            options: Options = Options(),
            dispatcher: CoroutineDispatcher = Dispatchers.Default,
        ): Learner = withContext(dispatcher) { Learner(BlockingLearner.open(bundle, state, runtime, options), dispatcher) }

        /**
         * Gives a state, learned with an older bundle, to a new one; see [BlockingLearner.adopt]. Cancelling it changes
         * nothing.
         *
         * @param onProgress hears of every step of the update, if there is one, on the thread that trains.
         */
        public suspend fun adopt(
            bundle: Path,
            state: Path,
            runtime: Runtime,
            options: Options = Options(),
            budget: Budget = Budget(),
            method: String = "auto",
            dispatcher: CoroutineDispatcher = Dispatchers.Default,
            onProgress: ProgressListener = ProgressListener {},
        ): Adoption =
            withContext(dispatcher) {
                val context = currentCoroutineContext()
                adoptState(bundle, state, runtime, options, { context.ensureActive() }) { it.update(budget, method, onProgress) }
            }
    }
}
