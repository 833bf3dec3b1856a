package pocketstep.learner

import android.app.Notification
import android.content.Context
import android.content.Intent
import android.graphics.Bitmap
import android.graphics.Canvas
import android.graphics.Color
import android.graphics.Paint
import android.os.BatteryManager
import androidx.test.core.app.ApplicationProvider
import androidx.work.ListenableWorker
import androidx.work.WorkInfo
import androidx.work.WorkManager
import androidx.work.WorkerParameters
import androidx.work.testing.TestListenableWorkerBuilder
import androidx.work.testing.WorkManagerTestInitHelper
import kotlinx.coroutines.runBlocking
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.RobolectricTestRunner
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode

/** What needs Android, on Robolectric. */
@RunWith(RobolectricTestRunner::class)
@GraphicsMode(GraphicsMode.Mode.NATIVE)
@Config(sdk = [34], manifest = Config.NONE)
class AndroidTest {
    private val context: Context = ApplicationProvider.getApplicationContext()
    private val rgb = ImageInput(listOf(8, 8, 3), listOf(0.0, 255.0), "rgb", listOf(0.0, 0.0, 0.0), listOf(1.0, 1.0, 1.0))
    private val grey = ImageInput(listOf(8, 8, 1), listOf(0.0, 255.0), "grey", listOf(0.0), listOf(1.0))

    /** Red above, blue below, and green on both sides, which the crop leaves out. */
    private fun picture(
        width: Int,
        height: Int,
    ): Bitmap {
        val bitmap = Bitmap.createBitmap(width, height, Bitmap.Config.ARGB_8888)
        val canvas = Canvas(bitmap)
        val edge = (width - height) / 2f
        canvas.drawColor(Color.GREEN)
        canvas.drawRect(edge, 0f, width - edge, height / 2f, Paint().apply { color = Color.RED })
        canvas.drawRect(edge, height / 2f, width - edge, height.toFloat(), Paint().apply { color = Color.BLUE })
        return bitmap
    }

    private fun pixels(
        bitmap: Bitmap,
        input: ImageInput,
        rotation: Int = 0,
    ): FloatArray {
        val rows = Pictures.of(listOf(bitmap), input, rotation).rowsFor(input)
        return rows.padded(intArrayOf(0), 1).data
    }

    private fun colour(
        data: FloatArray,
        x: Int,
        y: Int,
    ) = data.toList().subList((y * 8 + x) * 3, (y * 8 + x) * 3 + 3).map { it.toInt() }

    @Test
    fun picturesOfAnySizeAreCroppedScaledAndTurned() {
        for ((width, height) in listOf(32 to 16, 640 to 480, 1001 to 333, 9 to 8)) {
            val bitmap = picture(width, height)
            val upright = pixels(bitmap, rgb)
            assertEquals(listOf(255, 0, 0), colour(upright, 4, 1))
            assertEquals(listOf(0, 0, 255), colour(upright, 4, 6))
            val turned = pixels(bitmap, rgb, rotation = 90) // clockwise: what was above is on the right
            assertEquals(listOf(255, 0, 0), colour(turned, 6, 4))
            assertEquals(listOf(0, 0, 255), colour(turned, 1, 4))
            assertEquals(listOf(0, 0, 255), colour(pixels(bitmap, rgb, rotation = 180), 4, 1))
        }
        val small = pixels(picture(32, 16), grey)
        assertEquals(64, small.size)
        assertEquals(0.299f * 255, small[8 + 4], 0.5f)
        assertThrows(InputException::class.java) { pixels(picture(32, 16), rgb, rotation = 45) }
        assertThrows(InputException::class.java) { pixels(picture(32, 16).apply { recycle() }, rgb) }
        assertThrows(InputException::class.java) { Pictures.of(emptyList(), rgb).rowsFor(rgb) }
    }

    @Test
    fun aMissingAssetIsABundleError() {
        val error = assertThrows(BundleException::class.java) { Assets.unpack(context, "gone.bundle") }
        assertTrue(error.message!!.contains("gone.bundle"))
    }

    @Test
    fun batteryIsAsked() {
        val status = Intent(Intent.ACTION_BATTERY_CHANGED)
        status.putExtra(BatteryManager.EXTRA_LEVEL, 15).putExtra(BatteryManager.EXTRA_SCALE, 100)
        @Suppress("DEPRECATION")
        context.sendStickyBroadcast(status.putExtra(BatteryManager.EXTRA_PLUGGED, 0))
        val power = BatteryPower(context)
        assertEquals(0.15, power().level, 1e-9)
        assertTrue(!Budget(power = power).hasPower())
        assertTrue(Budget(power = power, minBattery = 0.1).hasPower())
    }

    @Test
    fun workerTriesAgainWhileTheStateIsInUse() {
        problem = StateException("The folder is in use by another process.")
        val worker = TestListenableWorkerBuilder<FailingWorker>(context).build()
        assertEquals(ListenableWorker.Result.retry(), runBlocking { worker.doWork() })
        val last = TestListenableWorkerBuilder<FailingWorker>(context).setRunAttemptCount(9).build()
        assertTrue(runBlocking { last.doWork() } is ListenableWorker.Result.Failure)
        problem = BundleException("It was cut.")
        val result = runBlocking { TestListenableWorkerBuilder<FailingWorker>(context).build().doWork() }
        assertEquals("It was cut.", (result as ListenableWorker.Result.Failure).outputData.getString(UpdateWorker.REASON))
    }

    @Test
    fun requestsWaitForChargerAndIdleAndAreNotDoubled() {
        WorkManagerTestInitHelper.initializeTestWorkManager(context)
        repeat(2) { UpdateWorker.schedule(context, FailingWorker::class.java) }
        val work = WorkManager.getInstance(context).getWorkInfosForUniqueWork("pocketstep-update").get()
        assertEquals(listOf(WorkInfo.State.ENQUEUED), work.map { it.state })
        assertTrue(work.single().constraints.requiresCharging())
        assertTrue(work.single().constraints.requiresDeviceIdle())
        UpdateWorker.cancel(context)
        val after = WorkManager.getInstance(context).getWorkInfosForUniqueWork("pocketstep-update").get()
        assertEquals(listOf(WorkInfo.State.CANCELLED), after.map { it.state })
    }

    class FailingWorker(
        context: Context,
        parameters: WorkerParameters,
    ) : UpdateWorker(context, parameters) {
        override suspend fun openLearner(): Learner = throw problem

        override fun notification(progress: Progress?): Notification = Notification()
    }

    private companion object {
        lateinit var problem: PocketstepException
    }
}
