package pocketstep.app

import android.content.Context
import android.content.Intent
import androidx.test.core.app.ApplicationProvider
import androidx.work.Configuration
import androidx.work.WorkInfo
import androidx.work.WorkManager
import androidx.work.impl.WorkManagerImpl
import androidx.work.impl.background.systemalarm.RescheduleReceiver
import androidx.work.impl.close
import androidx.work.impl.model.WorkSpecDao
import org.junit.After
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.RobolectricTestRunner
import org.robolectric.Shadows.shadowOf
import org.robolectric.annotation.Config
import pocketstep.learner.UpdateWorker
import java.util.concurrent.CompletableFuture
import java.util.concurrent.Executors

/** What is asked of the worker lies on the disk: a process that dies, and a system that starts anew, do not lose it. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [34])
class RestartTest {
    private val context: Context = ApplicationProvider.getApplicationContext()
    private lateinit var manager: WorkManagerImpl

    /** WorkManager as a new process has it, over the same files. */
    private fun start() {
        val worker = Executors.newSingleThreadExecutor()
        manager = WorkManagerImpl(context, Configuration.Builder().setExecutor(worker).setTaskExecutor(worker).build())
        WorkManagerImpl.setDelegate(manager)
    }

    /** When the system's scheduler was asked for the work, milliseconds; waits until that is after [time]. */
    private fun askedAfter(time: Long): Long {
        val deadline = System.nanoTime() + PATIENCE
        while (System.nanoTime() < deadline) {
            shadowOf(context.mainLooper).idle()
            val asked = manager.query { getScheduledWork().singleOrNull() }
            if (asked != null && asked.scheduleRequestedAt > time) return asked.scheduleRequestedAt
            Thread.sleep(PAUSE)
        }
        throw AssertionError("the system was not asked for the work")
    }

    /** Away from the main thread, as Room wants it. */
    private fun <T> WorkManagerImpl.query(ask: WorkSpecDao.() -> T): T =
        CompletableFuture.supplyAsync<T> { workDatabase.workSpecDao().ask() }.get()

    @After
    fun stop() = WorkManagerImpl.setDelegate(null)

    @Test
    fun aRequestOutlivesProcessAndReboot() {
        start()
        UpdateWorker.schedule(context, ChargingWorker::class.java)
        val first = askedAfter(0)
        manager.close() // and with it what the system knew of the work: each has a scheduler of its own here
        Thread.sleep(PAUSE)
        start()
        RescheduleReceiver().onReceive(context, Intent(Intent.ACTION_BOOT_COMPLETED))
        askedAfter(first)
        val work = WorkManager.getInstance(context).getWorkInfosForUniqueWork("pocketstep-update").get()
        assertEquals(listOf(WorkInfo.State.ENQUEUED), work.map { it.state })
        assertTrue(work.single().constraints.requiresCharging() && work.single().constraints.requiresDeviceIdle())
    }

    private companion object {
        const val PATIENCE = 20_000_000_000L
        const val PAUSE = 20L
    }
}
