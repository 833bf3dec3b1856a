package pocketstep.learner

/**
 * How long the rest of an update will take beside its training steps, so that it can end in time; measured in the
 * update itself.
 */
internal class Pace(
    private val samples: Samples,
) {
    private val held = samples.where { samples.heldBack[it] }.size
    private val usable = samples.size - held
    private val fresh = samples.where { samples.pending[it] && !samples.heldBack[it] }.size

    /** Seconds that `classify` took for one sample. */
    private var sample = 0.0

    /** Seconds of the last closed-form head that was not refreshed. */
    var head = 0.0

    /** The held-back samples took this long. */
    fun judged(seconds: Double) {
        sample = seconds / maxOf(1, held)
    }

    /**
     * Seconds of the first of [phases], which are still ahead, without its steps, and of the head for what it trained:
     * what lies between a phase that ran out of time and the next closed form is left out.
     */
    fun besideSteps(phases: List<Phase>): Double {
        val judging = held * sample
        val solve = phases.firstOrNull { it.kind == Phases.SOLVE }
        val own = if (phases[0] === solve) 0.0 else judging
        if (solve == null) return MARGIN * own
        val rows = if (solve.rowsOr("all") == "all") usable else fresh
        val refreshed = if (solve.refresh) rows else 0
        return MARGIN * (own + head + refreshed * COUNTING * sample + judging)
    }

    private companion object {
        const val COUNTING = 1.25 // what a sample takes whose features are also added to the statistics
        const val MARGIN = 1.1 // what was measured once takes longer the next time, now and then
    }
}
