package pocketstep.learner

import kotlin.math.ceil

/** What a phase ended with, and how that does, where it was looked at. */
internal class Outcome(
    val values: Values,
    val steps: Int = 0,
    val loss: Float = Float.NaN,
    val verdict: Verdict? = null,
)

/** What distillation follows: (N, slots) logits, and a weight for each sample. */
internal class Targets(
    val soft: FloatTensor,
    val weights: FloatArray,
)

/** A phase of gradient steps: rows, batches, targets, rates and masks for the program's `step`. */
internal class Trainer(
    private val machine: Machine,
    private val known: FloatTensor,
    private val samples: Samples,
    private val targets: Targets,
    private val meter: Meter,
    private val random: SplitMix,
    private val judge: Judge,
    private val onProgress: (Progress) -> Unit,
    private val lesson: Lesson? = null,
) {
    private val manifest = machine.manifest

    /** Where the lesson's samples begin, which are the last ones; their labels are guesses. */
    private val guessed = samples.size - (lesson?.samples?.size ?: 0)
    private val slots = manifest.task.slots
    private val latents = Rows.latents(samples)
    private val soft = Rows.of(targets.soft)

    /**
     * All steps of a phase, with a cosine rate; stops early when the time is up or held-back samples say so. Where the
     * budget ends before the steps do, the rate falls in that time.
     */
    fun run(
        phase: Phase,
        values: Values,
    ): Outcome {
        val onlyNew = phase.rows == "new"
        val rows = samples.where { !samples.heldBack[it] && (!onlyNew || samples.pending[it]) }
        if (rows.isEmpty()) return Outcome(values)
        val batch = machine.signature("step").batch
        val whole = maxOf(1, phase.epochs * ceil(rows.size.toDouble() / batch).toInt())
        val total = minOf(whole, phase.maxSteps ?: whole)
        val fixed = controls() + masks(phase, values) + projections(phase, values) + hyper(phase)
        val batches = Batches(rows, samples.labels, batch, phase.balanced, random)
        val checks = Checks(judge, phase.checks)
        val steps = Steps(meter, total)
        var current = values + ("blend" to FloatTensor.of(0f))
        var loss = Float.NaN
        while (steps.done < total && meter.hasTime() && !checks.enough) {
            val rate = phase.learningRate * steps.rate
            val feed = current + fixed + ("learning_rate" to FloatTensor.of(rate)) + batchOf(batches.next(), batch)
            val outputs = machine.run("step", feed)
            current = current + outputs.filterKeys(current::containsKey)
            loss = outputs.required("loss").data[0]
            steps.take()
            checks.after(steps.share, current)
            onProgress(Progress(phase.name, steps.done, total, loss, meter.seconds))
        }
        return Outcome(checks.best(current), steps.done, loss, checks.verdict)
    }

    /** Sums of `score` over rows: gradients, importances, and what else the program adds up, from zero or going on. */
    fun scores(
        values: Values,
        rows: IntArray,
        classes: FloatTensor,
        from: Values? = null,
    ): Values {
        val signature = machine.signature("score")
        val statistics = signature.inputs.filter { it.source == "statistics" }
        var sums: Values = statistics.associate { it.name to FloatTensor.zeros(it.dimensions) } + from.orEmpty()
        for (start in rows.indices step signature.batch) {
            if (from == null && !meter.hasTime()) break // they are for steps that will not be
            val part = rows.copyOfRange(start, minOf(start + signature.batch, rows.size))
            sums = machine.run("score", values + sums + batchOf(part, signature.batch) + ("class_mask" to classes))
        }
        return sums
    }

    /** Masks over class slots: what protects classes protects the known ones; targets that nobody gave are zero. */
    private fun controls(): Values {
        val values = HashMap<String, FloatTensor>()
        for (spec in machine.signature("step").inputs) {
            if (spec.source == "control" && spec.dimensions.contentEquals(known.shape)) {
                values[spec.name] =
                    when (spec.name) {
                        "logit_mask" -> taught()
                        "soft_mask" -> distilled()
                        else -> known
                    }
            } else if (spec.source == "batch") {
                values[spec.name] = FloatTensor.zeros(spec.dimensions)
            }
        }
        return values
    }

    private fun taught(): FloatTensor = FloatTensor(known.shape, FloatArray(slots) { if (it < manifest.task.classes.size) 1f else 0f })

    /** Classes that soft targets speak of: the known ones, and those that a pack's teacher knows. */
    private fun distilled(): FloatTensor {
        val more = lesson?.taught?.data ?: return known
        return FloatTensor(known.shape, FloatArray(slots) { maxOf(known.data[it], more[it]) })
    }

    private fun hyper(phase: Phase): Values = manifest.hyperOf(phase)

    private fun masks(
        phase: Phase,
        values: Values,
    ): Values {
        val names = manifest.state.filter { it.kind == "parameter" }.map { it.name }
        val old = samples.where { !samples.heldBack[it] && !samples.pending[it] }
        val new = samples.where { !samples.heldBack[it] && samples.pending[it] }
        val parts = arrayListOf(Masks.everything(names, values))
        if (phase.freeze > 0 && old.isNotEmpty()) {
            parts += Masks.withoutImportant(scores(values, old, known), names, phase.freeze, phase.freezeByLayer)
        }
        if (phase.channels < 1 && new.isNotEmpty()) {
            parts += Masks.selectedChannels(scores(values, new, values.required("class_mask")), names, phase.channels)
        }
        val paths = manifest.plan.paths
        if (paths.isNotEmpty()) {
            val seen = new.mapTo(HashSet()) { samples.labels[it] }
            val rates =
                FloatArray(slots) {
                    val rate = if (known.data[it] > 0) 1f else phase.newPaths.toFloat()
                    if (it in seen) rate else rate * phase.otherPaths.toFloat()
                }
            parts += Masks.ofPaths(paths, values, names, rates)
        }
        return Masks.together(parts).mapKeys { "mask.${it.key}" }
    }

    /** What updates are multiplied with: the identity, or from the covariances by the program's `project`. */
    private fun projections(
        phase: Phase,
        values: Values,
    ): Values {
        val names = values.keys.filter { it.startsWith(PROJECTION) }
        if (names.isEmpty() || phase.project == null) return names.associateWith { identity(values.required(it).shape[0]) }
        val hard = FloatTensor.of(if (phase.project == "hard") 1f else 0f)
        return machine.run("project", values + ("hard" to hard) + hyper(phase))
    }

    private fun identity(size: Int): FloatTensor =
        FloatTensor.zeros(intArrayOf(size, size)).apply { for (index in 0 until size) data[index * (size + 1)] = 1f }

    private fun batchOf(
        rows: IntArray,
        batch: Int,
    ): Values {
        val weights = FloatArray(batch) { if (it < rows.size) targets.weights[rows[it]] else 0f }
        val labelled = FloatArray(batch) { if (it < rows.size && rows[it] < guessed) 1f else 0f }
        return featureTargets(rows, batch) +
            mapOf(
                "latents" to latents.padded(rows, batch),
                "labels" to oneHot(samples.labels, rows, batch, slots),
                "label_weights" to FloatTensor(intArrayOf(batch), labelled),
                "soft_targets" to soft.padded(rows, batch),
                "soft_weights" to FloatTensor(intArrayOf(batch), weights),
            )
    }

    /** Those of the lesson's samples; nothing where there are none. */
    private fun featureTargets(
        rows: IntArray,
        batch: Int,
    ): Values {
        val features = lesson?.features ?: return emptyMap()
        val width = features.rowSize
        val targets = FloatArray(batch * width)
        val weights = FloatArray(batch)
        rows.forEachIndexed { index, row ->
            if (row >= guessed) {
                features.data.copyInto(targets, index * width, (row - guessed) * width, (row - guessed + 1) * width)
                weights[index] = 1f
            }
        }
        return mapOf(
            "feature_targets" to FloatTensor(intArrayOf(batch, width), targets),
            "feature_weights" to FloatTensor(intArrayOf(batch), weights),
        )
    }

    companion object {
        const val COVARIANCE = "covariance."
        private const val PROJECTION = "projection."
    }
}

/** The program's hyper-parameters, as a phase sets them, or their defaults. */
internal fun Manifest.hyperOf(phase: Phase): Values =
    hyper.mapValues { (name, entry) -> FloatTensor.of(phase.hyper(name) ?: entry.default) }

/** Random batches: a class, then one of its samples, both in ascending order; or, unbalanced, any sample. */
internal class Batches(
    rows: IntArray,
    labels: IntArray,
    batch: Int,
    balanced: Boolean,
    private val random: SplitMix,
) {
    private val groups =
        if (balanced) rows.groupBy { labels[it] }.toSortedMap().values.map { it.toIntArray() } else listOf(rows)
    private val size = minOf(batch, rows.size)

    fun next(): IntArray {
        val picks = List(size) { groups[random.below(groups.size)] }
        return IntArray(size) { picks[it][random.below(picks[it].size)] }
    }
}
