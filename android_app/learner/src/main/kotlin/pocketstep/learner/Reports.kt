package pocketstep.learner

/** Labels of N images, and for each of them probabilities in the order of [classes]. */
public class Prediction internal constructor(
    public val labels: List<String>,
    public val probabilities: List<FloatArray>,
    public val classes: List<String>,
)

/** Where an update is: phase, step of how many, the last loss (NaN where a phase has none), seconds since it began. */
public class Progress internal constructor(
    public val phase: String,
    public val step: Int,
    public val steps: Int,
    public val loss: Float,
    public val seconds: Double,
)

/** What one phase did, and how its candidate did on held-back samples (accuracies 0 to 1, NaN without samples). */
public class PhaseReport internal constructor(
    public val phase: String,
    public val steps: Int,
    public val loss: Float,
    public val seconds: Double,
    public val oldAccuracy: Double,
    public val newAccuracy: Double,
)

/**
 * The outcome of an update; accuracies are means per class on held-back samples, 0 to 1, NaN without samples.
 *
 * @property accepted whether the device changed; when false, everything is as it was.
 * @property chosen the phase whose state was taken, empty when none.
 * @property reason one sentence.
 * @property oldBefore accuracy on what was known, before the update; [oldAccuracy] and [newAccuracy] after it.
 * @property peakMemoryMb resident memory above where the update began, MiB.
 * @property stopped what ended the training steps early: `time`, `battery`, or empty.
 */
public class UpdateReport internal constructor(
    public val accepted: Boolean,
    public val method: String,
    public val chosen: String,
    public val reason: String,
    public val oldBefore: Double,
    public val oldAccuracy: Double,
    public val newAccuracy: Double,
    public val seconds: Double,
    public val peakMemoryMb: Double,
    public val phases: List<PhaseReport>,
    public val stopped: String,
)

/** What is known and stored. */
public class Status internal constructor(
    public val bundle: String,
    public val release: Long,
    public val signedBy: String?,
    public val version: Int,
    public val updates: Int,
    public val classes: List<String>,
    public val notYetLearned: List<String>,
    public val freeSlots: Int,
    public val storedSamples: Map<String, Int>,
    public val pendingSamples: Int,
    public val canRollBack: Boolean,
    public val notes: List<String>,
)

/** Hears of every training step, on the thread that trains. */
public fun interface ProgressListener {
    public fun onProgress(progress: Progress)
}
