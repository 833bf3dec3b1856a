package pocketstep.app

import android.content.Context
import pocketstep.learner.Learner
import pocketstep.learner.Options
import pocketstep.learner.open
import pocketstep.litert.LiteRt
import java.io.File

/** Where the learner comes from; tests bring their own. */
interface LearnerSource {
    /** Where what is learned is kept. */
    val state: File

    /**
     * @throws NoBundleException if the app was built without one.
     * @throws pocketstep.learner.PocketstepException if it can't be opened.
     */
    suspend fun open(): Learner
}

/** The bundle among the app's assets. */
class AssetSource(
    private val context: Context,
) : LearnerSource {
    override val state: File get() = File(context.filesDir, STATE)

    override suspend fun open(): Learner {
        if (BUNDLE !in context.assets.list("").orEmpty()) throw NoBundleException()
        val threads = (Runtime.getRuntime().availableProcessors() / 2).coerceIn(1, MOST_THREADS)
        return Learner.open(context, BUNDLE, STATE, LiteRt(), Options(threads))
    }

    companion object {
        /** Its name in `assets/`, where `scripts/android bundle` puts it. */
        const val BUNDLE = "model.bundle"
        private const val STATE = "learned"
        private const val MOST_THREADS = 4
    }
}
