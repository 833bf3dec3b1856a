package pocketstep.learner

import android.app.Notification
import android.content.Context
import android.content.pm.ServiceInfo
import android.os.Build
import androidx.work.Constraints
import androidx.work.CoroutineWorker
import androidx.work.ExistingWorkPolicy
import androidx.work.ForegroundInfo
import androidx.work.OneTimeWorkRequest
import androidx.work.WorkManager
import androidx.work.WorkerParameters
import androidx.work.workDataOf
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Job
import kotlinx.coroutines.coroutineScope
import kotlinx.coroutines.launch

/**
 * Learns what was observed while the device charges and nobody uses it, with a notification.
 *
 * WorkManager keeps the request over the end of the process and a reboot. An update that was interrupted has changed
 * nothing, and what was observed still waits, so that it begins again the next time.
 */
public abstract class UpdateWorker(
    context: Context,
    parameters: WorkerParameters,
) : CoroutineWorker(context, parameters) {
    /** Opens the app's learner; it is closed when the update ends. */
    protected abstract suspend fun openLearner(): Learner

    /** What the user sees while it runs; its channel is the app's to make. */
    protected abstract fun notification(progress: Progress?): Notification

    /** What an update may cost: by default the ten minutes that Android grants, and not the last fifth of the battery. */
    protected open fun budget(): Budget = Budget(seconds = SECONDS, power = BatteryPower(applicationContext))

    /** The method; see [BlockingLearner.update]. */
    protected open val method: String get() = Update.AUTO

    final override suspend fun doWork(): Result {
        try {
            showForeground(null)
            openLearner().use { learner ->
                if (learner.status().pendingSamples == 0) return Result.success(workDataOf(ACCEPTED to false))
                val report = coroutineScope { updateShown(learner) }
                return Result.success(
                    workDataOf(ACCEPTED to report.accepted, REASON to report.reason, SECONDS_TAKEN to report.seconds),
                )
            }
        } catch (problem: StateException) {
            // The app may have the state open just now.
            return if (runAttemptCount < ATTEMPTS) Result.retry() else failure(problem)
        } catch (problem: PocketstepException) {
            return failure(problem)
        }
    }

    private suspend fun CoroutineScope.updateShown(learner: Learner): UpdateReport {
        val shown: Job =
            launch {
                var last = 0.0
                learner.progress.collect { progress ->
                    if (progress.seconds - last >= SHOW_EVERY) {
                        last = progress.seconds
                        showForeground(progress)
                    }
                }
            }
        try {
            return learner.update(budget(), method)
        } finally {
            shown.cancel()
        }
    }

    final override suspend fun getForegroundInfo(): ForegroundInfo = info(null)

    /** From the background Android may refuse a foreground service: the work then goes on without. */
    private suspend fun showForeground(progress: Progress?) {
        try {
            setForeground(info(progress))
        } catch (_: IllegalStateException) {
            return
        }
    }

    private fun info(progress: Progress?): ForegroundInfo =
        if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.Q) {
            ForegroundInfo(NOTIFICATION, notification(progress), ServiceInfo.FOREGROUND_SERVICE_TYPE_DATA_SYNC)
        } else {
            ForegroundInfo(NOTIFICATION, notification(progress))
        }

    private fun failure(problem: PocketstepException) = Result.failure(workDataOf(REASON to problem.message))

    public companion object {
        /** Keys of the work's result. */
        public const val ACCEPTED: String = "accepted"
        public const val REASON: String = "reason"
        public const val SECONDS_TAKEN: String = "seconds"
        private const val NOTIFICATION = 0x706F636B
        private const val SECONDS = 540.0
        private const val SHOW_EVERY = 1.0
        private const val ATTEMPTS = 5
        private const val NAME = "pocketstep-update"

        /** Asks for one update, the next time that the device charges and is idle; a request that waits already stays. */
        @JvmStatic
        public fun schedule(
            context: Context,
            worker: Class<out UpdateWorker>,
        ) {
            val constraints = Constraints.Builder().setRequiresCharging(true).setRequiresDeviceIdle(true).build()
            val request = OneTimeWorkRequest.Builder(worker).setConstraints(constraints).build()
            WorkManager.getInstance(context).enqueueUniqueWork(NAME, ExistingWorkPolicy.KEEP, request)
        }

        /** Takes the request back; an update that runs is cancelled and changes nothing. */
        @JvmStatic
        public fun cancel(context: Context) {
            WorkManager.getInstance(context).cancelUniqueWork(NAME)
        }
    }
}
