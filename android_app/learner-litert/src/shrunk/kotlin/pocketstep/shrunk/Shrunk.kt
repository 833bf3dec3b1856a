package pocketstep.shrunk

import android.app.Notification
import android.content.Context
import android.graphics.Bitmap
import androidx.work.WorkerParameters
import pocketstep.learner.BatteryPower
import pocketstep.learner.BlockingLearner
import pocketstep.learner.Budget
import pocketstep.learner.Images
import pocketstep.learner.Learner
import pocketstep.learner.Options
import pocketstep.learner.Pictures
import pocketstep.learner.Progress
import pocketstep.learner.UpdateWorker
import pocketstep.learner.open
import pocketstep.litert.LiteRt
import java.io.File
import kotlin.system.exitProcess

/** What an app calls: its dex by R8 is what the library costs an app that shrinks. */
object Shrunk {
    suspend fun tenLines(
        context: Context,
        shots: List<Bitmap>,
    ): String {
        val learner = Learner.open(context, asset = "mugs.bundle", stateDir = "mugs", runtime = LiteRt())
        val input = learner.manifest.task.input
        val seen = learner.classify(Pictures.of(shots, input, rotation = 90))
        learner.addClass("blue mug")
        learner.observe(Pictures.of(shots, input), "blue mug")
        val report = learner.update(Budget(seconds = 60.0, power = BatteryPower(context)))
        if (report.accepted) learner.rollback()
        UpdateWorker.schedule(context, Worker::class.java)
        learner.close()
        return "${seen.labels[0]}: ${report.reason}"
    }

    class Worker(
        context: Context,
        parameters: WorkerParameters,
    ) : UpdateWorker(context, parameters) {
        override suspend fun openLearner() = Learner.open(applicationContext, "mugs.bundle", "mugs", LiteRt())

        override fun notification(progress: Progress?) = Notification()
    }
}

/** Runs on the desktop after R8: learns a class and fails when it is not recognised. */
object Proof {
    @JvmStatic
    fun main(arguments: Array<String>) {
        val (bundle, state, natives, pictures) = arguments
        for (name in listOf("libc", "libm", "libdl", "liblog", "libtensorflowlite_jni")) System.load("$natives/$name.so")
        val raw = File(pictures).readBytes()
        val end = raw.indexOf('\n'.code.toByte())
        val (count, height, width, channels) = String(raw, 0, end).split(" ").drop(1).map { it.toInt() }
        val images = Images.ofBytes(raw.copyOfRange(end + 1, raw.size), count, height, width, channels)
        BlockingLearner.open(File(bundle).toPath(), File(state).toPath(), LiteRt(), Options(threads = 1)).use { learner ->
            learner.addClass("new")
            learner.observe(images, "new")
            val report = learner.update(Budget(seconds = 60.0), "closed-form")
            val right = learner.classify(images).labels.count { it == "new" }
            println("shrunk: accepted ${report.accepted}, $right of $count pictures recognised")
            if (!report.accepted || right < count * 3 / 4) exitProcess(1)
        }
        exitProcess(0)
    }
}
