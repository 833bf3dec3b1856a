package pocketstep.learner

import java.io.File
import java.io.IOException

/**
 * Limits of one update.
 *
 * @property seconds wall-clock time of the update: no training step begins that would leave too little for the closed
 * form of what was trained, at the pace measured in this update; null for no limit.
 * @property memoryMb resident memory above where the update began, in MiB: it does not begin when the forecast is
 * higher, and is undone when it took more; null for no limit but the memory that is free.
 * @property diskMb bytes that the update may write, in MiB; null for no limit but the space that is free.
 * @property threads CPU threads of the update; null for those that the learner was opened with.
 * @property power asked before the update and about once a second while it runs; null where there is no battery.
 * @property minBattery the update does not begin, and no further training step does, below this level (0 to 1) unless
 * it charges.
 */
public class Budget
    @JvmOverloads
    constructor(
        public val seconds: Double? = null,
        public val memoryMb: Double? = null,
        public val diskMb: Double? = null,
        public val threads: Int? = null,
        public val power: (() -> Power)? = null,
        public val minBattery: Double = 0.2,
    ) {
        init {
            for ((name, value) in listOf("seconds" to seconds, "memoryMb" to memoryMb, "diskMb" to diskMb)) {
                if (value != null && !(value > 0 && value.isFinite())) {
                    throw InputException("the budget's $name is $value; give a positive number or leave it out")
                }
            }
            if (threads != null && threads < 1) {
                throw InputException("the budget's threads are $threads; give 1 or more, or leave them out")
            }
            if (minBattery !in 0.0..1.0) {
                throw InputException("the budget's minBattery is $minBattery; give a level from 0 to 1")
            }
        }

        /** Whether the battery, if there is one, has enough or charges. */
        internal fun hasPower(): Boolean = power?.invoke()?.let { it.charging || it.level >= minBattery } ?: true
    }

/** What the host says of its battery: [level] 0 (empty) to 1 (full), and whether it charges. */
public class Power(
    public val level: Double,
    public val charging: Boolean,
)

/** Runs beside an update and says when its budget is spent. */
internal class Meter(
    private val budget: Budget,
) {
    private val start = System.nanoTime()
    private val idle = residentMb()
    private var asked = 0.0

    /** Seconds that must be left when the steps end. */
    var reserve = 0.0

    /** Why no further step may begin: `time`, `battery`, or empty. */
    var stopped = ""
        private set

    init {
        resetPeak()
    }

    val seconds: Double get() = (System.nanoTime() - start) / NANOS

    /** Peak resident memory above where the update began, MiB; 0 where the system does not tell. */
    val peakMb: Double get() = maxOf(0.0, highestMb() - idle)

    /** Seconds until the steps must end; null without a budget of them. */
    val left: Double? get() = budget.seconds?.let { it - reserve - seconds }

    /** Whether another step may begin. */
    fun hasTime(): Boolean {
        if (left.let { it != null && it <= 0 }) {
            stopped = "time"
        } else if (seconds >= asked + POWER_EVERY) {
            asked = seconds
            if (!budget.hasPower()) stopped = "battery"
        }
        return stopped.isEmpty()
    }

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

    private companion object {
        const val NANOS = 1e9
        const val POWER_EVERY = 1.0 // seconds between two questions about the battery
    }
}

/** Resident memory of this process, MiB (Linux and Android; 0 elsewhere). */
internal fun residentMb(): Double = statusMb("VmRSS")

/** Highest resident memory since [resetPeak], MiB. */
internal fun highestMb(): Double = statusMb("VmHWM")

/** Starts the peak anew, where the system allows it; else it is that of the process so far. */
internal fun resetPeak() {
    try {
        File("/proc/self/clear_refs").writeText("5")
    } catch (_: IOException) {
        return
    }
}

private fun statusMb(field: String): Double = kibibytes(File("/proc/self/status"), field)?.div(KIB) ?: 0.0

/** A line `FIELD: 123 kB` of a file of the kernel's; null where there is none. */
internal fun kibibytes(
    file: File,
    field: String,
): Double? =
    try {
        file.readLines().firstOrNull { it.startsWith("$field:") }?.filter { it.isDigit() }?.toDoubleOrNull()
    } catch (_: IOException) {
        null
    }

private const val KIB = 1024.0
