package pocketstep.app

import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.sync.Mutex
import kotlinx.coroutines.sync.withLock
import kotlinx.coroutines.withContext
import pocketstep.learner.Learner

/** Opens the learner when the app is seen and closes it when it is not, so that the worker can have it meanwhile. */
class Door(
    private val source: LearnerSource,
) {
    private val turn = Mutex()

    /** Null while closed. */
    var learner: Learner? = null
        private set

    /** The open learner; the same as before if it was open. */
    suspend fun open(): Learner = turn.withLock { learner ?: source.open().also { learner = it } }

    /** Waits for what is going on, which is cancelled at its next step. */
    suspend fun close() =
        turn.withLock {
            val open = learner ?: return@withLock
            learner = null
            withContext(Dispatchers.IO) { open.close() }
        }
}
