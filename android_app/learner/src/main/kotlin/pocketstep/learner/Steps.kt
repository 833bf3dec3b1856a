package pocketstep.learner

import kotlin.math.PI
import kotlin.math.cos

/**
 * The share of a phase that is done: by its steps, or by time where the budget ends before they do. So a rate that falls
 * along the phase has fallen when it ends, however slow the device is.
 */
internal class Steps(
    private val meter: Meter,
    private val total: Int,
) {
    private val began = meter.seconds

    var done = 0
        private set

    /** 0 before the first step, 1 after the last one. */
    var share = 0.0
        private set

    /** Of the next step, as a share of the phase's: half a cosine, from 1 to 0. */
    val rate: Double get() = 0.5 * (1 + cos(PI * share))

    /** One more is done. */
    fun take() {
        done++
        val byNumber = (total - done).toDouble()
        val ahead = meter.left?.let { minOf(byNumber, maxOf(0.0, it) / maxOf((meter.seconds - began) / done, ROUNDING)) } ?: byNumber
        share += (1 - share) / (ahead + 1)
    }
}

/** Looks at a state [count] times along a phase, remembers the best, and has enough after two that were no better. */
internal class Checks(
    private val judge: Judge,
    private val count: Int,
) {
    private var best: Values? = null
    private var number = 0
    private var worse = 0
    private var unseen = false

    /** How the best state does; null before the first look. */
    var verdict: Verdict? = null
        private set

    /** Whether further steps would be in vain. */
    val enough: Boolean get() = worse >= PATIENCE

    /** A step was done, and that share of the phase. */
    fun after(
        share: Double,
        values: Values,
    ) {
        val reached = (share * count + ROUNDING).toInt()
        unseen = reached == number
        if (!unseen) {
            number = reached
            look(values)
        }
    }

    /** The best state that was looked at, the last one among them. */
    fun best(last: Values): Values {
        if (count > 0 && unseen) look(last)
        return best ?: last
    }

    private fun look(values: Values) {
        val found = judge.of(values)
        val before = verdict
        if (before == null || found > before) {
            verdict = found
            best = values
            worse = 0
        } else {
            worse++
        }
    }

    private companion object {
        const val PATIENCE = 2
    }
}

private const val ROUNDING = 1e-9
