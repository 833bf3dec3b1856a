package pocketstep.learner

/**
 * One run of a schedule. Nothing here computes a loss, a gradient or a head: phases choose rows, rates and masks, and
 * every candidate state is judged on samples that were held back.
 *
 * @property values the state before the update, its statistics and class mask already with the new classes; never
 * changed.
 * @property known (slots,) 1 for classes that existed before.
 * @property samples replay of the cloud and of the device, pending ones among them, and the lesson's last.
 * @property lesson a target pack's; null without.
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
    private val lesson: Lesson? = null,
) {
    private class Candidate(
        val report: PhaseReport,
        val verdict: Verdict,
        val values: Values,
    )

    /** Whether *auto* begins with the closed form and has held-back samples of less than half of the known classes. */
    private val endsClosed: Boolean by lazy {
        val judged = samples.where { samples.heldBack[it] && !samples.pending[it] }.map { samples.labels[it] }.distinct()
        val isBlind = 2 * judged.size < known.data.count { it > 0 }
        method == AUTO && isBlind && schedule.phases.firstOrNull()?.kind == Phases.SOLVE
    }

    /**
     * All phases, then the choice: the report, and the values to keep (the caller's own if nothing was accepted). Once
     * the budget's time is up, phases that would train nothing are left out. Steps end early enough for the closed form
     * of what they trained. *auto* trains nothing where it could not tell what that costs: it ends with the closed form
     * then.
     */
    fun run(): Pair<UpdateReport, Values> {
        val judge = Judge(machine, samples)
        val before = values + ("class_mask" to known)
        val pace = Pace(samples)
        val judging = meter.seconds
        val verdict = judge.of(before)
        pace.judged(meter.seconds - judging)
        val trainer = Trainer(machine, known, samples, targets(before), meter, random, judge, onProgress, lesson)
        val phases = Phases(machine, samples, trainer)
        val candidates = mutableListOf<Candidate>()
        var current = values
        var trained = false
        for ((index, phase) in schedule.phases.withIndex()) {
            meter.reserve = pace.besideSteps(schedule.phases.drop(index))
            val isNeeded = phase.kind == Phases.SOLVE && trained // a head for what was trained is worth its time
            if (candidates.isNotEmpty() && (endsClosed || !(isNeeded || meter.hasTime()))) continue
            val began = meter.seconds
            val outcome = phases.run(phase, current)
            current = outcome.values
            if (phase.kind == Phases.SOLVE && !phase.refresh) pace.head = meter.seconds - began
            meter.checkMemory()
            val found = outcome.verdict ?: judge.of(current)
            val seconds = meter.seconds - began
            val report = PhaseReport(phase.name, outcome.steps, outcome.loss, seconds, found.old, found.new)
            candidates += Candidate(report, found, current)
            trained = outcome.steps > 0 || (trained && phase.kind != Phases.SOLVE)
        }
        return choose(verdict, candidates, phases)
    }

    private fun choose(
        before: Verdict,
        candidates: List<Candidate>,
        phases: Phases,
    ): Pair<UpdateReport, Values> {
        val refusals = candidates.map { it.verdict.refusal(before, schedule.accept) }
        val able =
            candidates.filterIndexed { index, it -> refusals[index] == null && it.values.values.all(FloatTensor::isFinite) }
        if (able.isEmpty()) {
            val why = refusals.lastOrNull { it != null } ?: "numbers that are not finite"
            val reason =
                "every phase was refused, the last with: $why; rolled back. " +
                    "Observe more images of the new class, or check their labels; forget() takes a class out"
            return report(null, reason, before, candidates) to values
        }
        val isChoosing = method in CHOOSING
        val best = if (isChoosing) able.reduce { best, it -> if (it.verdict > best.verdict) it else best } else able.last()
        val reason =
            when {
                endsClosed -> "too few known classes have held-back samples to train more than the closed form safely"
                isChoosing -> "'${best.report.phase}' did best on held-back samples"
                else -> "as asked for"
            }
        return report(best, reason, before, candidates) to phases.withProtection(best.values)
    }

    private fun report(
        chosen: Candidate?,
        reason: String,
        before: Verdict,
        candidates: List<Candidate>,
    ): UpdateReport =
        UpdateReport(
            chosen != null,
            method,
            chosen?.report?.phase.orEmpty(),
            reason,
            before.old,
            chosen?.verdict?.old ?: before.old,
            chosen?.verdict?.new ?: Double.NaN,
            meter.seconds,
            meter.peakMb,
            candidates.map { it.report },
            meter.stopped,
        )

    /**
     * Logits to distil from: the teacher's cached ones, for the device's own samples its outputs before the update. Not
     * for pending samples of a class that is known: they were observed because the outputs are to change.
     */
    private fun targets(before: Values): Targets {
        val slots = samples.slots
        val soft = samples.softTargets.copyOf()
        val own = samples.where { !samples.hasSoft[it] && !(samples.pending[it] && known.data[samples.labels[it]] > 0) }
        if (own.isNotEmpty()) {
            val logits = machine.inBatches("classify", before, "latents", Rows.latents(samples, own), "logits").data
            own.forEachIndexed { index, row -> logits.copyInto(soft, row * slots, index * slots, (index + 1) * slots) }
            val unsaid = (0 until slots).filter { known.data[it] == 0f && (lesson?.taught?.data?.get(it) ?: 0f) > 0 }
            own.forEach { row -> unsaid.forEach { soft[row * slots + it] = TargetPack.NO_LOGIT } }
        }
        val weights = FloatArray(samples.size) { if (samples.hasSoft[it]) 1f else 0f }
        own.forEach { weights[it] = 1f }
        return Targets(FloatTensor(intArrayOf(samples.size, slots), soft), weights)
    }

    companion object {
        const val AUTO = "auto"

        /** Methods that keep the phase that does best; the others keep their last one. */
        private val CHOOSING = setOf(AUTO, TargetPack.METHOD)
    }
}
