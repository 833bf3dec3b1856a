package pocketstep.learner

import java.nio.file.Path

/**
 * A short learning task that any bundle with replay samples has, the same as the Python package's `learning_check.py`: a
 * made-up class, whose latents are replayed ones with their channels permuted, is taught in a fresh state.
 */
internal class LearningCheck(
    private val bundle: Bundle,
) {
    private val task = bundle.manifest.task
    private val samples = cloudSamples(bundle)
    private val training = samples.where { !samples.heldBack[it] }

    /** Why a bundle has no such task; null when it has one. */
    fun whyNot(): String? =
        when {
            task.classes.size >= task.slots -> "no learning task: no class slot is free"
            MADE_UP in task.classes -> "no learning task: the bundle has a class '$MADE_UP'"
            training.isEmpty() -> "no learning task: the bundle has no replay samples to teach with"
            else -> null
        }

    /** Runs it in an empty [state] folder; the report's `learning`. */
    fun run(
        runtime: Runtime,
        threads: Int,
        state: Path,
    ): Map<String, Any?> {
        val taught = evenly(training, TAUGHT)
        val held = samples.where { samples.heldBack[it] }
        val asked = samples.select(evenly(if (held.isNotEmpty()) held else training, ASKED))
        val method = if (METHOD in bundle.manifest.schedules) METHOD else Update.AUTO
        val began = System.nanoTime()
        return BlockingLearner.open(bundle.path, state, runtime, Options(threads)).use { learner ->
            learner.addClass(MADE_UP)
            val before = share(answers(learner, asked), asked.labels)
            learner.observe(madeUp(samples.select(taught)).latents, taught.size, MADE_UP)
            val accepted = learner.update(method = method).accepted
            val old = answers(learner, asked)
            val new = answers(learner, madeUp(asked))
            val slot = learner.classes.indexOf(MADE_UP)
            linkedMapOf(
                "method" to method,
                "taught" to taught.size,
                "accepted" to accepted,
                "old_before" to before,
                "old_after" to share(old, asked.labels),
                "new" to share(new, IntArray(new.size) { slot }),
                "seconds" to (System.nanoTime() - began) / 1e9,
                "predictions" to old + new,
            )
        }
    }

    private fun answers(
        learner: BlockingLearner,
        samples: Samples,
    ): List<Int> {
        val classes = learner.classes
        return learner.classify(Rows.latents(samples)).labels.map(classes::indexOf)
    }

    private fun share(
        answers: List<Int>,
        right: IntArray,
    ): Double = answers.indices.count { answers[it] == right[it] } / answers.size.toDouble()

    /** Latents of a class that no network has seen: channels permuted; one or two are negated. */
    private fun madeUp(samples: Samples): Samples {
        val channels = samples.latentShape.last()
        val order = SplitMix(1).permutation(channels)
        val from = samples.latents
        val latents =
            ByteArray(from.size) {
                if (channels <= 2) (-maxOf(from[it].toInt(), LEAST)).toByte() else from[it - it % channels + order[it % channels]]
            }
        return with(samples) { Samples(latentShape, slots, latents, labels, softTargets, hasSoft, heldBack, origin, pending) }
    }

    private fun evenly(
        rows: IntArray,
        wanted: Int,
    ): IntArray {
        val count = minOf(wanted, rows.size)
        return IntArray(count) { rows[it * rows.size / count] }
    }

    private companion object {
        const val MADE_UP = "made-up"
        const val METHOD = "closed-form"
        const val TAUGHT = 40
        const val ASKED = 64
        const val LEAST = -127
    }
}
