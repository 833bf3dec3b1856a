package pocketstep.learner

import java.io.File
import java.nio.file.Files
import java.nio.file.Path

/**
 * What an update will take, before it begins: peak resident memory of a learner that opens, observes and updates, above
 * its process before; bytes.
 *
 * @property program the loaded program with all its signatures.
 * @property data samples, state and candidates.
 * @property disk what the update writes before it removes anything.
 * @property measured whether [program] was measured when the bundle was built; else it is a guess from its size.
 */
internal class Forecast private constructor(
    val program: Double,
    val data: Double,
    val disk: Double,
    val measured: Boolean,
) {
    /** Refuses an update before it begins: battery, memory or disk won't do. */
    fun checkRoom(
        budget: Budget,
        takenMb: Double,
        folder: Path,
    ) {
        if (!budget.hasPower()) {
            refuse("the battery is below ${percent(budget.minBattery)} and does not charge", "Charge it, or lower the budget's minBattery")
        }
        val need = maxOf(0.0, (program + data) / MIB - minOf(takenMb, program / MIB))
        val how = if (measured) "" else ", by a guess from the program's size"
        val wanted = "the update would need about ${rounded(need)} MiB$how"
        if (budget.memoryMb != null && need > budget.memoryMb) {
            refuse("$wanted, more than its budget of ${budget.memoryMb} MiB", "Raise the budget or build the bundle with a smaller batch")
        }
        val free = kibibytes(File("/proc/meminfo"), "MemAvailable")?.div(KIB)
        if (free != null && need > free) {
            refuse("$wanted, and this machine has ${rounded(free)} MiB free", "End other programs or build the bundle with a smaller batch")
        }
        val write = "the update would write ${rounded(disk / MIB, 1)} MiB"
        if (budget.diskMb != null && disk / MIB > budget.diskMb) {
            refuse("$write, more than its budget of ${budget.diskMb} MiB", "Raise the budget")
        }
        val room = Files.getFileStore(folder).usableSpace
        if (disk > room) {
            refuse("$write, and the disk of $folder has ${rounded(room / MIB, 1)} MiB free", "Free some space")
        }
    }

    private fun refuse(
        problem: String,
        remedy: String,
    ): Nothing = throw CheckFailedException("$problem; the update was not begun and nothing was changed. $remedy")

    private fun rounded(
        value: Double,
        digits: Int = 0,
    ): String = "%.${digits}f".format(java.util.Locale.ROOT, value)

    companion object {
        private const val MIB = 1024.0 * 1024.0
        private const val KIB = 1024.0
        private const val FLOAT = 4.0
        private const val SLACK = 4 * MIB
        private const val STATISTICS = 3 // copies beside the saved ones: refreshed, in calls, and left in the heap
        private const val HEADERS = 2 * 65_536.0

        /**
         * Foretells an update from [cloud] and [device] samples, in which so many phases are [training]: beside the program,
         * which was measured with a call's inputs and outputs, the samples, the saved state, statistics that are refreshed,
         * and the trained tensors that each of these phases leaves as a candidate.
         */
        fun of(
            manifest: Manifest,
            runtime: String,
            cloud: Int,
            device: Int,
            training: Int,
        ): Forecast {
            val resident = "bytes.resident.$runtime"
            val measured = manifest.cost["$resident.whole"] ?: manifest.cost[resident]
            val state = manifest.state.sumOf { product(it.shape) } * FLOAT
            val trained = manifest.state.filter { it.kind in TRAINED }.sumOf { product(it.shape) } * FLOAT
            val sample = product(manifest.latent.shape) + 3 * manifest.task.slots * FLOAT + 16
            val rows = (cloud + 2 * device) * sample // joined, and those of the device by themselves
            val inputs = manifest.signatures.values.map { signature -> signature.inputs.sumOf { product(it.shape) } }
            val results = manifest.signatures.values.sumOf { signature -> signature.outputs.sumOf { product(it.shape) } }
            val buffers = if (runtime in WHOLE) (inputs.sum() + results) * FLOAT else 0.0
            val statistics = manifest.state.filter { it.kind == "statistics" }.sumOf { product(it.shape) } * FLOAT
            val data = rows + state + training * trained + STATISTICS * statistics + buffers + SLACK
            val disk = state + 2.0 * device + HEADERS
            return Forecast(measured ?: guessed(manifest, runtime), data, disk, measured != null)
        }

        /** Runtimes whose programs keep all signatures in memory, and buffers for each. */
        private val WHOLE = setOf("litert")
        private val TRAINED = setOf("parameter", "optimiser", "head")

        /** Where nobody measured: the program's constants twice, and four times the largest batch. */
        private fun guessed(
            manifest: Manifest,
            runtime: String,
        ): Double {
            val file = manifest.runtimes.getValue(runtime).file
            val size = manifest.files.filterKeys { it == file || it.startsWith("$file/") }.values.sumOf { it.bytes }
            val inputs = manifest.signatures.values.flatMap { it.inputs }
            val batches = inputs.filter { it.source == "batch" }.map { product(it.shape) }
            return 2.0 * size + 4 * (batches.maxOrNull() ?: 0.0) * FLOAT
        }

        private fun product(shape: List<Int>): Double = shape.fold(1.0) { all, size -> all * size }
    }
}
