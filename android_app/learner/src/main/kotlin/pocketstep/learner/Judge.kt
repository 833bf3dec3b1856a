package pocketstep.learner

/** Mean per-class accuracy on known and on pending held-back samples, and how sure the right answers were. */
internal class Judgement(
    val old: Double,
    val new: Double,
    private val sure: Double,
) {
    private val mean: Double = listOf(old, new).filterNot { it.isNaN() }.let { if (it.isEmpty()) 0.0 else it.average() }

    /** Better on average; or, where that is equal, surer. */
    operator fun compareTo(other: Judgement): Int =
        when {
            mean > other.mean -> 1
            mean < other.mean -> -1
            sure > other.sure -> 1
            sure < other.sure -> -1
            else -> 0
        }
}

/** Judges states on samples that no training sees. */
internal class Judge(
    private val machine: Machine,
    samples: Samples,
) {
    private val held = samples.select(samples.where { samples.heldBack[it] })

    fun of(values: Values): Judgement {
        val outputs = machine.inBatches("classify", values, "latents", Rows.latents(held), "probabilities")
        val width = outputs.rowSize
        val right = DoubleArray(held.size) { if (argMax(outputs.data, it * width, width) == held.labels[it]) 1.0 else 0.0 }
        val sure = DoubleArray(held.size) { outputs.data[it * width + held.labels[it]].toDouble() }
        val old = held.where { !held.pending[it] }
        val new = held.where { held.pending[it] }
        return Judgement(perClassMean(right, old), perClassMean(right, new), perClassMean(sure, held.where { true }))
    }

    /** The mean over classes of the mean within a class; NaN without samples. */
    private fun perClassMean(
        values: DoubleArray,
        rows: IntArray,
    ): Double {
        val means = rows.groupBy { held.labels[it] }.toSortedMap().map { (_, own) -> own.map { values[it] }.average() }
        return if (means.isEmpty()) Double.NaN else means.average()
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
