package pocketstep.app

import android.graphics.Bitmap
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.withContext
import pocketstep.learner.Learner
import pocketstep.learner.Pictures

/** Says what pictures show; those of a camera are averaged over a moment, so that bars move instead of flicker. */
class Watcher {
    private var smooth = emptyMap<String, Float>()

    /** The likeliest classes of an upright picture. */
    suspend fun look(
        learner: Learner,
        picture: Bitmap,
        isLive: Boolean,
    ): List<Guess> {
        val images = withContext(Dispatchers.Default) { Pictures.of(listOf(picture), learner.manifest.task.input) }
        val seen = learner.classify(images)
        val now = seen.classes.zip(seen.probabilities[0].asIterable()).toMap()
        smooth = if (isLive) now.mapValues { (name, it) -> NEW * it + (1 - NEW) * (smooth[name] ?: it) } else now
        return smooth.map { (name, it) -> Guess(name, it) }.sortedByDescending(Guess::probability).take(SHOWN)
    }

    fun forget() {
        smooth = emptyMap()
    }

    private companion object {
        const val NEW = 0.5f // of a camera's latest picture
        const val SHOWN = 3
    }
}
