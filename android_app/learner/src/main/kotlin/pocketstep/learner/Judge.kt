package pocketstep.learner

import kotlin.math.max
import kotlin.math.sqrt

/**
 * How a state does on samples that were held back. Accuracies are means per class, 0 to 1, NaN without samples: [old] on
 * samples that an earlier update had seen, or that came with the bundle, [new] on pending ones.
 *
 * @property count old samples.
 * @property byClass slot to accuracy on the old samples and how many there are, of classes with enough of them.
 */
internal class Verdict(
    val old: Double,
    val new: Double,
    private val sure: Double,
    private val count: Int,
    private val byClass: Map<Int, Share>,
) : Comparable<Verdict> {
    private val mean: Double = listOf(old, new).filterNot { it.isNaN() }.let { if (it.isEmpty()) 0.0 else it.average() }

    /** Better on average; or, where that is equal, surer. */
    override fun compareTo(other: Verdict): Int =
        when {
            mean > other.mean -> 1
            mean < other.mean -> -1
            sure > other.sure -> 1
            sure < other.sure -> -1
            else -> 0
        }

    /**
     * Why this is too bad to be kept, compared with what was before; null when it is not. A loss counts when it is larger
     * than the limit and the standard error of what was before: of so few samples, some are lost by chance.
     */
    fun refusal(
        before: Verdict,
        accept: Accept,
    ): String? {
        if (old < before.old - accept.maxOldLoss - Share(before.old, before.count).error) {
            val limit = percent(accept.maxOldLoss)
            return "lost more than $limit on known classes (${percent(before.old, 1)} to ${percent(old, 1)})"
        }
        val both = before.byClass.filterKeys(byClass::containsKey)
        val lost = both.mapValues { (slot, was) -> was.value - byClass.getValue(slot).value - was.error }
        val worst = lost.maxByOrNull { it.value } ?: return null
        if (worst.value <= accept.maxClassLoss) return null
        val was = percent(before.byClass.getValue(worst.key).value, 1)
        val now = percent(byClass.getValue(worst.key).value, 1)
        return "lost more than ${percent(accept.maxClassLoss)} on class ${worst.key} ($was to $now)"
    }
}

/** A share (0 to 1) of [count] samples. */
internal class Share(
    val value: Double,
    private val count: Int,
) {
    /** Its standard error; 0 without samples. */
    val error: Double get() = if (count == 0) 0.0 else sqrt(max(0.0, value * (1 - value)) / count)
}

/** Judges states on samples that no training sees. */
internal class Judge(
    private val machine: Machine,
    private val samples: Samples,
) {
    private val held = samples.where { samples.heldBack[it] }

    fun of(values: Values): Verdict {
        val outputs = machine.inBatches("classify", values, "latents", Rows.latents(samples, held), "probabilities")
        val width = outputs.rowSize
        val right = DoubleArray(held.size) { if (argMax(outputs.data, it * width, width) == label(it)) 1.0 else 0.0 }
        val sure = DoubleArray(held.size) { outputs.data[it * width + label(it)].toDouble() }
        val (new, old) = held.indices.partition { samples.pending[held[it]] }
        val large = old.groupBy(::label).filterValues { it.size >= FEWEST }.toSortedMap()
        return Verdict(
            perClassMean(right, old),
            perClassMean(right, new),
            perClassMean(sure, held.indices.toList()),
            old.size,
            large.mapValues { (_, own) -> Share(own.map { right[it] }.average(), own.size) },
        )
    }

    private fun label(index: Int): Int = samples.labels[held[index]]

    /** The mean over classes of the mean within a class; NaN without samples. */
    private fun perClassMean(
        values: DoubleArray,
        rows: List<Int>,
    ): Double {
        val means = rows.groupBy(::label).toSortedMap().map { (_, own) -> own.map { values[it] }.average() }
        return if (means.isEmpty()) Double.NaN else means.average()
    }

    private companion object {
        /** Held-back samples of a class below which its own accuracy is too coarse to refuse an update. */
        const val FEWEST = 5
    }
}

/** Place of the largest of [count] values from [start], the first one of equals, counted from there. */
internal fun argMax(
    values: FloatArray,
    start: Int,
    count: Int,
): Int {
    var best = 0
    for (index in 1 until count) if (values[start + index] > values[start + best]) best = index
    return best
}
