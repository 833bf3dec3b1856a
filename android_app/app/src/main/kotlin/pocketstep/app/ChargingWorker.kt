package pocketstep.app

import android.app.Notification
import android.app.NotificationChannel
import android.app.NotificationManager
import android.app.PendingIntent
import android.content.Context
import android.content.Intent
import androidx.work.WorkerParameters
import pocketstep.learner.Learner
import pocketstep.learner.Progress
import pocketstep.learner.UpdateWorker

/** Learns what waits while the device charges and nobody uses it. */
class ChargingWorker(
    context: Context,
    parameters: WorkerParameters,
) : UpdateWorker(context, parameters) {
    override suspend fun openLearner(): Learner = (applicationContext as DemoApplication).source.open()

    override fun notification(progress: Progress?): Notification {
        val context = applicationContext
        val name = context.getString(R.string.channel_name)
        val manager = context.getSystemService(NotificationManager::class.java)
        manager.createNotificationChannel(NotificationChannel(CHANNEL, name, NotificationManager.IMPORTANCE_LOW))
        val open = Intent(context, MainActivity::class.java)
        return Notification
            .Builder(context, CHANNEL)
            .setSmallIcon(R.drawable.ic_steps)
            .setContentTitle(name)
            .setContentText(context.getString(R.string.channel_text))
            .setProgress(progress?.steps ?: 0, progress?.step ?: 0, progress == null)
            .setContentIntent(PendingIntent.getActivity(context, 0, open, PendingIntent.FLAG_IMMUTABLE))
            .setOngoing(true)
            .build()
    }

    private companion object {
        const val CHANNEL = "learning"
    }
}
