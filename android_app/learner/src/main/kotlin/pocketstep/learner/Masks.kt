package pocketstep.learner

import kotlin.math.abs
import kotlin.math.floor

/**
 * Which weights a phase may move: all, or not those that matter to known classes, or only channels that new data wants.
 * The sums come from the program's `score`; here they are only ranked.
 */
internal object Masks {
    /** Every weight may move. */
    fun everything(
        names: List<String>,
        values: Values,
    ): Values = names.associateWith { FloatTensor.filled(values.required(it).shape, 1f) }

    /** All but the [share] of weights, of all or [byLayer], that matter most to known classes: importance is (g w)^2. */
    fun withoutImportant(
        scores: Values,
        names: List<String>,
        share: Double,
        byLayer: Boolean,
    ): Values {
        val importance = names.associateWith { scores.required("importance.$it") }
        val all = FloatArray(importance.values.sumOf { it.data.size })
        importance.values.fold(0) { at, it -> it.data.copyInto(all, at).let { _ -> at + it.data.size } }
        val every = if (byLayer) 0f else quantile(all, 1 - share)
        return importance.mapValues { (_, own) ->
            val limit = if (byLayer) quantile(own.data, 1 - share) else every
            FloatTensor(own.shape, FloatArray(own.data.size) { if (own.data[it] <= limit) 1f else 0f })
        }
    }

    /**
     * CsKO's channel selection: of each trained kernel, (inputs, outputs), the share [kept] of inputs whose mean of
     * |sum over samples of the gradient| is large; every other tensor may move.
     */
    fun selectedChannels(
        scores: Values,
        names: List<String>,
        kept: Double,
    ): Values =
        names.associateWith { name ->
            val gradient = scores.required("gradient.$name")
            val mask = FloatTensor.filled(gradient.shape, 1f)
            if (gradient.shape.size == 2 && !name.startsWith("head.")) {
                val width = gradient.rowSize
                val byInput =
                    FloatArray(gradient.shape[0]) { row ->
                        var sum = 0f
                        for (at in row * width until (row + 1) * width) sum += abs(gradient.data[at])
                        sum / width
                    }
                val count = maxOf(1, (kept * byInput.size).toInt())
                byInput.indices.sortedByDescending { byInput[it] }.drop(count).forEach { row ->
                    mask.data.fill(0f, row * width, (row + 1) * width)
                }
            }
            mask
        }

    /**
     * What the updates of each weight are multiplied with: the rate (slots,) of the path it belongs to, 0 outside the
     * paths' blocks. Tensors without paths may move.
     */
    fun ofPaths(
        paths: List<PathAxis>,
        values: Values,
        names: List<String>,
        rates: FloatArray,
    ): Values =
        names.associateWith { name ->
            val shape = values.required(name).shape
            val axes = paths.filter { it.name == name }
            val mask = FloatTensor.filled(shape, 1f)
            if (axes.isNotEmpty()) {
                for (at in mask.data.indices) {
                    val owners = axes.map { at / it.strideIn(shape) % rates.size }
                    mask.data[at] = if (owners.all { it == owners[0] }) rates[owners[0]] else 0f
                }
            }
            mask
        }

    /** What all masks allow. */
    fun together(parts: List<Values>): Values =
        parts.first().mapValues { (name, first) ->
            val others = parts.drop(1).map { it.required(name).data }
            FloatTensor(first.shape, FloatArray(first.data.size) { at -> others.fold(first.data[at]) { product, it -> product * it[at] } })
        }
}

/** How many values of a tensor, in their order, lie between the beginnings of two paths. */
private fun PathAxis.strideIn(shape: IntArray): Int = shape.drop(axis + 1).fold(size) { all, it -> all * it }

/** The value that the share [q] of values lies below, between its neighbours in proportion, computed as numpy does. */
internal fun quantile(
    values: FloatArray,
    q: Double,
): Float {
    val sorted = values.sortedArray()
    val place = (sorted.size - 1) * q
    val below = floor(place).toInt().coerceIn(0, sorted.size - 1)
    val above = minOf(below + 1, sorted.size - 1)
    val share = place - below
    val gap = sorted[above] - sorted[below]
    return if (share >= 0.5) sorted[above] - gap * (1 - share).toFloat() else sorted[below] + gap * share.toFloat()
}
