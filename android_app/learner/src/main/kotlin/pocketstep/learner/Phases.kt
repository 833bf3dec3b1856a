package pocketstep.learner

import kotlin.math.PI
import kotlin.math.ceil
import kotlin.math.cos
import kotlin.math.floor

/** What a phase ended with. */
internal class Outcome(
    val values: Values,
    val steps: Int = 0,
    val loss: Float = Float.NaN,
)

/** The kinds of phases that a schedule can list; a new kind is a branch of [run] and a function. */
internal class Phases(
    private val machine: Machine,
    private val known: FloatTensor,
    private val samples: Samples,
    private val targets: Targets,
    private val meter: Meter,
    private val random: SplitMix,
    private val onProgress: (Progress) -> Unit,
) {
    private val manifest = machine.manifest
    private val slots = manifest.task.slots

    fun run(
        phase: Phase,
        values: Values,
    ): Outcome =
        when (phase.kind) {
            "solve" -> Outcome(solve(phase, values))
            "train" -> train(phase, values)
            else -> throw BundleException(
                "the schedule has a phase of kind '${phase.kind}', which this version does not know",
            )
        }

    /** The closed-form head's statistics, with those of samples that were not learned yet. */
    fun withPendingStatistics(values: Values): Values =
        accumulate(values, samples.where { samples.pending[it] && !samples.heldBack[it] })

    /** The closed-form head; with `refresh`, from statistics of the features as they are now. */
    private fun solve(
        phase: Phase,
        values: Values,
    ): Values {
        var current = values
        if (phase.refresh) {
            val fresh = STATISTICS.associateWith { FloatTensor.zeros(required(values, it).shape) }
            current = accumulate(values + fresh, samples.where { !samples.heldBack[it] })
        }
        val head = machine.run("solve", current + ("shrinkage" to FloatTensor.of(phase.shrinkage)))
        return current + head + ("blend" to FloatTensor.of(1f))
    }

    /** Adds samples to the closed-form head's statistics. */
    private fun accumulate(
        values: Values,
        rows: IntArray,
    ): Values {
        val batch = machine.signature("statistics").batch
        val chosen = samples.select(rows)
        val features = Rows.of(machine.inBatches("classify", values, "latents", Rows.latents(chosen), "features"))
        var current = values
        for (start in rows.indices step batch) {
            val part = IntArray(minOf(batch, rows.size - start)) { start + it }
            val feed =
                mapOf(
                    "features" to features.padded(part, batch),
                    "labels" to oneHot(chosen.labels, part, batch),
                    "label_weights" to ones(part.size, batch),
                )
            current = current + machine.run("statistics", current + feed)
        }
        return current
    }

    /** Gradient steps on rows `new` or `all`, class-balanced, cosine rate; stops when the time is up. */
    private fun train(
        phase: Phase,
        values: Values,
    ): Outcome {
        val onlyNew = phase.rows == "new"
        val rows = samples.where { !samples.heldBack[it] && (!onlyNew || samples.pending[it]) }
        if (rows.isEmpty()) return Outcome(values)
        val batch = machine.signature("step").batch
        val total = maxOf(1, phase.epochs * ceil(rows.size.toDouble() / batch).toInt())
        val fixed = controls("step") + masks(phase, values) + hyper(phase)
        val batches = BalancedBatches(rows, samples.labels, batch, random)
        var current = values + ("blend" to FloatTensor.of(0f))
        var loss = Float.NaN
        var steps = 0
        while (steps < total && meter.hasTime()) {
            val rate = phase.learningRate * 0.5 * (1 + cos(PI * steps / total))
            val feed = current + fixed + ("learning_rate" to FloatTensor.of(rate)) + batchOf(batches.next(), batch)
            val outputs = machine.run("step", feed)
            current = current + outputs.filterKeys(current::containsKey)
            loss = required(outputs, "loss").data[0]
            steps++
            onProgress(Progress(phase.name, steps, total, loss, meter.seconds))
        }
        return Outcome(current, steps, loss)
    }

    /** Masks over class slots: what protects classes protects the known ones; targets that nobody gave are zero. */
    private fun controls(signature: String): Values {
        val values = HashMap<String, FloatTensor>()
        for (spec in machine.signature(signature).inputs) {
            if (spec.source == "control" && spec.dimensions.contentEquals(known.shape)) {
                values[spec.name] = if (spec.name == "logit_mask") taught() else known
            } else if (spec.source == "batch") {
                values[spec.name] = FloatTensor.zeros(spec.dimensions)
            }
        }
        return values
    }

    private fun taught(): FloatTensor =
        FloatTensor(known.shape, FloatArray(slots) { if (it < manifest.task.classes.size) 1f else 0f })

    private fun hyper(phase: Phase): Values =
        manifest.hyper.mapValues { (name, entry) -> FloatTensor.of(phase.hyper(name) ?: entry.default) }

    /** Which weights may move: all, or all but the fraction `freeze` that matters most to known classes (ODIL). */
    private fun masks(
        phase: Phase,
        values: Values,
    ): Values {
        val names = manifest.state.filter { it.kind == "parameter" }.map { it.name }
        val rows = samples.where { !samples.heldBack[it] && !samples.pending[it] }
        if (phase.freeze <= 0 || rows.isEmpty()) {
            return names.associate { "mask.$it" to FloatTensor.filled(required(values, it).shape, 1f) }
        }
        val importance = importance(values, rows, names)
        val threshold = quantile(importance.values.flatMap { it.data.asList() }.toFloatArray(), 1 - phase.freeze)
        return importance.entries.associate { (name, own) ->
            "mask.$name" to FloatTensor(own.shape, FloatArray(own.data.size) { if (own.data[it] <= threshold) 1f else 0f })
        }
    }

    /** (gradient * weight)^2 over known samples, summed by the program. */
    private fun importance(
        values: Values,
        rows: IntArray,
        names: List<String>,
    ): Values {
        val signature = machine.signature("score")
        var sums: Values =
            signature.inputs.filter { it.source == "statistics" }.associate { it.name to FloatTensor.zeros(it.dimensions) }
        for (start in rows.indices step signature.batch) {
            val part = rows.copyOfRange(start, minOf(start + signature.batch, rows.size))
            val feed = values + sums + batchOf(part, signature.batch) + ("class_mask" to known)
            sums = machine.run("score", feed)
        }
        return names.associateWith { required(sums, "importance.$it") }
    }

    private fun batchOf(
        rows: IntArray,
        batch: Int,
    ): Values =
        mapOf(
            "latents" to Rows.latents(samples).padded(rows, batch),
            "labels" to oneHot(samples.labels, rows, batch),
            "label_weights" to ones(rows.size, batch),
            "soft_targets" to Rows.of(targets.soft).padded(rows, batch),
            "soft_weights" to
                FloatTensor(intArrayOf(batch), FloatArray(batch) { if (it < rows.size) targets.weights[rows[it]] else 0f }),
        )

    private fun oneHot(
        labels: IntArray,
        rows: IntArray,
        batch: Int,
    ): FloatTensor {
        val data = FloatArray(batch * slots)
        rows.forEachIndexed { index, row -> data[index * slots + labels[row]] = 1f }
        return FloatTensor(intArrayOf(batch, slots), data)
    }

    private fun ones(
        count: Int,
        batch: Int,
    ) = FloatTensor(intArrayOf(batch), FloatArray(batch) { if (it < count) 1f else 0f })

    private fun required(
        values: Values,
        name: String,
    ): FloatTensor = values[name] ?: throw BundleException("this bundle has no '$name', which its schedule needs; build it again")

    private companion object {
        val STATISTICS = listOf("count", "total", "second")
    }
}

/** Class-balanced batches: a class at random, then one of its samples, both in ascending order. */
internal class BalancedBatches(
    rows: IntArray,
    labels: IntArray,
    batch: Int,
    private val random: SplitMix,
) {
    private val byClass = rows.sorted().groupBy { labels[it] }.toSortedMap().values.map { it.toIntArray() }
    private val size = minOf(batch, rows.size)

    fun next(): IntArray =
        IntArray(size) {
            val own = byClass[random.below(byClass.size)]
            own[random.below(own.size)]
        }
}

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
