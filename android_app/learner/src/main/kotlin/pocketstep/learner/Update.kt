package pocketstep.learner

/**
 * One run of a schedule. Nothing here computes a loss, a gradient or a head: phases choose rows, rates and masks, and
 * every candidate state is judged on samples that were held back.
 *
 * @property values the state before the update, class mask already with the new classes; never changed.
 * @property known (slots,) 1 for classes that existed before; they are what distillation protects.
 * @property samples replay of the cloud and of the device, pending ones among them.
 */
internal class Update(
    private val machine: Machine,
    private val values: Values,
    private val known: FloatTensor,
    private val samples: Samples,
    private val schedule: Schedule,
    private val method: String,
    private val meter: Meter,
    private val random: SplitMix,
    private val onProgress: (Progress) -> Unit,
) {
    private class Candidate(
        val report: PhaseReport,
        val score: Judgement,
        val values: Values,
    )

    /** All phases, then the choice: the report, and the values to keep (the caller's own if nothing was accepted). */
    fun run(): Pair<UpdateReport, Values> {
        val judge = Judge(machine, samples)
        val before = values + ("class_mask" to known)
        val oldBefore = judge.of(before).old
        val phases = Phases(machine, known, samples, targets(before), meter, random, onProgress)
        var current = phases.withPendingStatistics(values)
        val candidates =
            schedule.phases.map { phase ->
                val began = meter.seconds
                val outcome = phases.run(phase, current)
                current = outcome.values
                meter.checkMemory()
                val score = judge.of(current)
                val seconds = meter.seconds - began
                val report = PhaseReport(phase.name, outcome.steps, outcome.loss, seconds, score.old, score.new)
                Candidate(report, score, current)
            }
        return choose(oldBefore, candidates)
    }

    private fun choose(
        oldBefore: Double,
        candidates: List<Candidate>,
    ): Pair<UpdateReport, Values> {
        val limit = schedule.accept.maxOldLoss
        val able = candidates.filter { !(it.score.old < oldBefore - limit) && it.values.values.all(FloatTensor::isFinite) }
        val phases = candidates.map { it.report }
        if (able.isEmpty()) {
            val bestOld = candidates.maxOfOrNull { it.score.old } ?: Double.NaN
            val reason =
                "every phase lost more than ${percent(limit)} on known classes (best ${percent(bestOld, 1)}, before " +
                    "${percent(oldBefore, 1)}); rolled back. Observe more images of the new class, or check their labels"
            return report(false, "", reason, oldBefore, oldBefore, Double.NaN, phases) to values
        }
        val best = if (method == AUTO) able.reduce { best, it -> if (it.score > best.score) it else best } else able.last()
        val reason = if (method == AUTO) "'${best.report.phase}' did best on held-back samples" else "as asked for"
        val report = report(true, best.report.phase, reason, oldBefore, best.score.old, best.score.new, phases)
        return report to best.values
    }

    private fun report(
        accepted: Boolean,
        chosen: String,
        reason: String,
        before: Double,
        old: Double,
        new: Double,
        phases: List<PhaseReport>,
    ): UpdateReport =
        UpdateReport(accepted, method, chosen, reason, before, old, new, meter.seconds, meter.peakMb, phases)

    /** The teacher's cached targets; for the device's own accepted samples, its outputs before the update. */
    private fun targets(before: Values): Targets {
        val slots = samples.slots
        val soft = samples.softTargets.copyOf()
        val own = samples.where { !samples.hasSoft[it] && !samples.pending[it] }
        if (own.isNotEmpty()) {
            val rows = Rows.latents(samples.select(own))
            val logits = machine.inBatches("classify", before, "latents", rows, "logits").data
            own.forEachIndexed { index, row -> logits.copyInto(soft, row * slots, index * slots, (index + 1) * slots) }
        }
        val weights = FloatArray(samples.size) { if (samples.hasSoft[it]) 1f else 0f }
        own.forEach { weights[it] = 1f }
        return Targets(FloatTensor(intArrayOf(samples.size, slots), soft), weights)
    }

    companion object {
        const val AUTO = "auto"
    }
}

/** What distillation follows: (N, slots) logits, and a weight for each sample. */
internal class Targets(
    val soft: FloatTensor,
    val weights: FloatArray,
)
