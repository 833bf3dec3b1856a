package pocketstep.app

import android.content.Context
import pocketstep.learner.UpdateWorker

/** The switch "learn while charging", and the request that it makes of WorkManager. */
class WhileCharging(
    private val context: Context,
) {
    private val settings = context.getSharedPreferences("settings", Context.MODE_PRIVATE)

    var isOn: Boolean
        get() = settings.getBoolean(KEY, false)
        set(value) {
            settings.edit().putBoolean(KEY, value).apply()
            if (!value) UpdateWorker.cancel(context)
        }

    /** Asks for an update, if the switch is on. */
    fun request() {
        if (isOn) UpdateWorker.schedule(context, ChargingWorker::class.java)
    }

    private companion object {
        const val KEY = "while_charging"
    }
}
