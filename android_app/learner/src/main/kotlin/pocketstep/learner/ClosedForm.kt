package pocketstep.learner

/** Statistics of the closed-form head: what observing, refreshing and forgetting feed the program with. */
internal class ClosedForm(
    private val machine: Machine,
) {
    /** The values with samples added to the statistics, their features those of the values' network. */
    fun observed(
        values: Values,
        samples: Samples,
        rows: IntArray,
        weight: Float = 1f,
    ): Values {
        val batch = machine.signature("classify").batch
        var current = values
        for (start in rows.indices step batch) { // not all features at once: they are larger than the latents
            val part = rows.copyOfRange(start, minOf(start + batch, rows.size))
            val features = machine.inBatches("classify", values, "latents", Rows.latents(samples, part), "features")
            current = added(current, features, IntArray(part.size) { samples.labels[part[it]] }, weight)
        }
        return current
    }

    /** The values with statistics of these samples alone: what older ones saw were other features. */
    fun refreshed(
        values: Values,
        samples: Samples,
        rows: IntArray,
    ): Values = observed(values + STATISTICS.associateWith { FloatTensor.zeros(values.required(it).shape) }, samples, rows)

    /**
     * The values without the class of a [slot], of whose samples [rows] are stored and not held back: sample by sample
     * where these are all that were counted, so that nothing of the class is left; else its mean as often as it was counted.
     */
    fun forgotten(
        values: Values,
        slot: Int,
        samples: Samples,
        rows: IntArray,
    ): Values {
        val count = values.required("count").data[slot]
        if (count == 0f) return values
        val changed =
            if (rows.size.toFloat() == count) {
                observed(values, samples, rows, -1f)
            } else {
                val total = values.required("total")
                val width = total.rowSize
                val mean = FloatArray(width) { total.data[slot * width + it] / count }
                added(values, FloatTensor(intArrayOf(1, width), mean), intArrayOf(slot), -count)
            }
        return changed + listOf("count", "total").associateWith { cleared(changed.required(it), slot) }
    }

    /** Not a rounding error of zero. */
    private fun cleared(
        tensor: FloatTensor,
        slot: Int,
    ): FloatTensor {
        val data = tensor.data.copyOf()
        data.fill(0f, slot * tensor.rowSize, (slot + 1) * tensor.rowSize)
        return FloatTensor(tensor.shape, data)
    }

    private fun added(
        values: Values,
        features: FloatTensor,
        labels: IntArray,
        weight: Float,
    ): Values {
        val batch = machine.signature("statistics").batch
        val slots = machine.manifest.task.slots
        val rows = Rows.of(features)
        var current = values
        for (start in labels.indices step batch) {
            val part = IntArray(minOf(batch, labels.size - start)) { start + it }
            val feed =
                mapOf(
                    "features" to rows.padded(part, batch),
                    "labels" to oneHot(labels, part, batch, slots),
                    "label_weights" to repeated(weight, part.size, batch),
                )
            current = current + machine.run("statistics", current + feed)
        }
        return current
    }

    companion object {
        val STATISTICS = listOf("count", "total", "second")
    }
}

/** A value that a state or an output must have. */
internal fun Values.required(name: String): FloatTensor =
    this[name] ?: throw BundleException("this bundle has no '$name', which its schedules need; build it again")

/** Labels of the chosen rows, (batch, slots), zero rows behind. */
internal fun oneHot(
    labels: IntArray,
    rows: IntArray,
    batch: Int,
    slots: Int,
): FloatTensor {
    val data = FloatArray(batch * slots)
    rows.forEachIndexed { index, row -> data[index * slots + labels[row]] = 1f }
    return FloatTensor(intArrayOf(batch, slots), data)
}

/** A value [count] times, zeros behind, (batch,). */
internal fun repeated(
    value: Float,
    count: Int,
    batch: Int,
): FloatTensor = FloatTensor(intArrayOf(batch), FloatArray(batch) { if (it < count) value else 0f })
