package pocketstep.learner

import java.nio.file.Path

/** Whether a device computes what PyTorch did, and learns: the target report, format 1 (`on_device/VALIDATION.md`). */
public object Validation {
    private const val FORMAT = 1
    private const val SETTLED_ROUNDS = 15
    private const val SETTLED_SECONDS = 0.5
    private const val MOST_SECONDS = 4.0

    /** A shortest time is shorter than before where it is below this part of it. */
    private const val FELL = 0.98
    private const val NANOS = 1e9
    private const val MILLIS = 1e3
    private val TIMED = listOf("encode", "classify", "step")

    /**
     * Replays the trace and learns a made-up class; an error of ours ends in the report.
     *
     * @param bundle a folder or a zip.
     * @param scratch an empty folder for what is learned.
     * @param facts what only the caller knows, of the report's fields: `runtime_version`, `package_version`, `device`.
     * @param tolerance largest relative error that passes.
     * @param learning whether to run the learning task.
     * @return the report, JSON.
     */
    @JvmStatic
    public fun report(
        bundle: Path,
        runtime: Runtime,
        scratch: Path,
        facts: Map<String, Any?>,
        threads: Int,
        tolerance: Double,
        learning: Boolean,
    ): String {
        val report =
            linkedMapOf(
                "format" to FORMAT,
                "runtime" to runtime.name,
                "runtime_version" to "",
                "package_version" to "",
                "bundle" to "",
                "device" to emptyMap<String, Any>(),
                "threads" to threads,
                "golden" to null,
                "signatures" to null,
                "forward_passes" to 0.0,
                "peak_memory_mb" to 0.0,
                "learning" to null,
                "notes" to emptyList<String>(),
                "passed" to false,
                "error" to null,
                "error_code" to 0,
            )
        report += facts
        try {
            val opened = Bundle.open(bundle)
            report["bundle"] = opened.digest
            resetPeak()
            val worst = Machine(opened, runtime, threads).use { replayed(opened, it, tolerance, report) }
            if (learning) learned(LearningCheck(opened), runtime, threads, scratch, report)
            report["peak_memory_mb"] = highestMb()
            report["passed"] = worst <= tolerance
        } catch (problem: PocketstepException) {
            listOf("golden", "signatures", "learning").forEach { report[it] = null }
            report["error"] = problem.message
            report["error_code"] = problem.exitCode
        }
        return Json.compact(report)
    }

    private fun learned(
        check: LearningCheck,
        runtime: Runtime,
        threads: Int,
        scratch: Path,
        report: MutableMap<String, Any?>,
    ) {
        val reason = check.whyNot()
        if (reason != null) report["notes"] = listOf(reason) else report["learning"] = check.run(runtime, threads, scratch)
    }

    /** Fills in the trace's part; the largest error. */
    private fun replayed(
        bundle: Bundle,
        machine: Machine,
        tolerance: Double,
        report: MutableMap<String, Any?>,
    ): Double {
        val values = LinkedHashMap<String, FloatTensor>()
        val calls = Golden.replay(bundle, machine, values)
        val worst = calls.maxOf { it.worst }
        val listed =
            calls.map {
                mapOf("index" to it.index, "signature" to it.signature, "worst" to finite(it.worst), "seconds" to it.seconds)
            }
        val bySignature = calls.groupBy { it.signature }
        val warm = warm(machine, TIMED.filter { it in bySignature }, values)
        report["golden"] = mapOf("tolerance" to tolerance, "worst" to finite(worst), "passed" to (worst <= tolerance), "calls" to listed)
        report["signatures"] =
            bySignature.mapValues { (name, own) ->
                val seconds = median(warm[name] ?: own.map { it.seconds })
                mapOf("worst" to finite(own.maxOf { it.worst }), "calls" to own.size, "median_ms" to seconds * MILLIS)
            }
        val each = TIMED.map { (warm[it] ?: return worst).min() / machine.signature(it).batch }
        report["forward_passes"] = each[2] / (each[0] + each[1])
        return worst
    }

    private fun finite(value: Double): Double? = value.takeIf { it.isFinite() }

    /** Seconds of calls after the trace's, in turns: until no shortest time has fallen for 15 rounds or half a second. */
    private fun warm(
        machine: Machine,
        names: List<String>,
        values: Values,
    ): Map<String, List<Double>> {
        val found = names.associateWith { ArrayList<Double>() }
        val began = System.nanoTime()
        var fell = began
        var rounds = 0
        while (names.isNotEmpty() && rounds < SETTLED_ROUNDS) {
            rounds++
            for ((name, seconds) in found) {
                val start = System.nanoTime()
                machine.run(name, values)
                val end = System.nanoTime()
                val own = (end - start) / NANOS
                if (own < FELL * (seconds.minOrNull() ?: Double.POSITIVE_INFINITY)) {
                    rounds = 0
                    fell = end
                }
                seconds += own
            }
            val now = System.nanoTime()
            if ((now - fell) / NANOS > SETTLED_SECONDS || (now - began) / NANOS > MOST_SECONDS) break
        }
        return found
    }

    private fun median(values: List<Double>): Double {
        val sorted = values.sorted()
        return (sorted[(sorted.size - 1) / 2] + sorted[sorted.size / 2]) / 2
    }
}
