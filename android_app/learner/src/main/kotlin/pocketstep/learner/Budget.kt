package pocketstep.learner

import java.io.File
import java.io.IOException

/**
 * Limits of one update.
 *
 * @property seconds wall-clock time after which no further training step begins; null for no limit.
 * @property memoryMb resident memory above idle, in MiB, that the update must stay under; null for no limit.
 */
public class Budget
    @JvmOverloads
    constructor(
        public val seconds: Double? = null,
        public val memoryMb: Double? = null,
    ) {
        init {
            for ((name, value) in listOf("seconds" to seconds, "memory" to memoryMb)) {
                if (value != null && !(value > 0 && value.isFinite())) {
                    throw InputException("the budget's $name is $value; give a positive number or leave it out")
                }
            }
        }
    }

/** Runs beside an update and says when its budget is spent. */
internal class Meter(
    private val budget: Budget,
) {
    private val start = System.nanoTime()
    private val idle = status("VmRSS")

    init {
        try {
            File("/proc/self/clear_refs").writeText("5") // starts the peak anew, where the system allows it
        } catch (_: IOException) {
            // the peak then is that of the process so far
        }
    }

    val seconds: Double get() = (System.nanoTime() - start) / NANOS

    /** Peak resident memory above where the update began, MiB; 0 where the system does not tell. */
    val peakMb: Double get() = maxOf(0.0, status("VmHWM") - idle)

    fun hasTime(): Boolean = budget.seconds == null || seconds < budget.seconds

    fun checkMemory() {
        val limit = budget.memoryMb ?: return
        val peak = peakMb
        if (peak > limit) {
            throw CheckFailedException(
                "the update needed %.0f MiB above idle, more than its budget of %.0f MiB; nothing was changed. ".format(peak, limit) +
                    "Raise the budget or build the bundle with a smaller batch",
            )
        }
    }

    private fun status(field: String): Double =
        try {
            val line = File("/proc/self/status").readLines().firstOrNull { it.startsWith("$field:") }
            line?.filter { it.isDigit() }?.toDoubleOrNull()?.div(KIB) ?: 0.0
        } catch (_: IOException) {
            0.0
        }

    private companion object {
        const val NANOS = 1e9
        const val KIB = 1024.0
    }
}
