package pocketstep.app

import android.graphics.Bitmap
import pocketstep.learner.Progress

/** All that the screen shows; replaced, never changed. */
data class UiState(
    val opening: Opening = Opening.Waiting,
    val mode: Mode = Mode.Watching,
    /** A picture from the gallery that is looked at instead of the camera. */
    val picture: Bitmap? = null,
    /** What the picture shows, the likeliest first. */
    val guesses: List<Guess> = emptyList(),
    val facts: Facts = Facts(),
    val notice: Notice? = null,
)

/** Whether there is something to see with. */
sealed interface Opening {
    data object Waiting : Opening

    data object Ready : Opening

    data class Failed(
        val problem: Problem,
        val detail: String,
    ) : Opening
}

/** What the user is doing. */
sealed interface Mode {
    data object Watching : Mode

    data class Teaching(
        val name: String = "",
        val shots: List<Bitmap> = emptyList(),
    ) : Mode

    /** [progress] is null before the first step. */
    data class Learning(
        val name: String,
        val progress: Progress? = null,
    ) : Mode

    data class Learned(
        val lesson: Lesson,
    ) : Mode
}

/** One class and its probability, 0 to 1. */
data class Guess(
    val name: String,
    val probability: Float,
)

/** How an update went; accuracies are 0 to 1 on samples that were held back, NaN where there were none. */
data class Lesson(
    val name: String,
    val accepted: Boolean,
    val oldBefore: Double,
    val oldAfter: Double,
    val newAfter: Double,
    val seconds: Double,
    val cost: Cost,
)

/**
 * What an update took.
 *
 * @property bytes by which the folder of what is learned grew.
 * @property microampHours from the battery; null where it charges or the device does not tell.
 */
data class Cost(
    val bytes: Long,
    val microampHours: Long?,
)

/** What is known and stored. */
data class Facts(
    val known: List<String> = emptyList(),
    /** Classes that this device was shown, and how many of their pictures it keeps. */
    val taught: Map<String, Int> = emptyMap(),
    val freePlaces: Int = 0,
    val waiting: Int = 0,
    val canUndo: Boolean = false,
    val bytes: Long = 0,
    val whileCharging: Boolean = false,
)

/** A sentence for the user; [detail] is the library's own, for developers. */
data class Notice(
    val problem: Problem,
    val detail: String = "",
)
