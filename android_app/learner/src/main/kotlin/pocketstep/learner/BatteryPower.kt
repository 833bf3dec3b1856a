package pocketstep.learner

import android.content.Context
import android.content.Intent
import android.content.IntentFilter
import android.os.BatteryManager

/** What the device says of its battery, for [Budget.power]. */
public class BatteryPower(
    private val context: Context,
) : () -> Power {
    /** A device without a battery counts as charging. */
    override fun invoke(): Power {
        val status = context.registerReceiver(null, IntentFilter(Intent.ACTION_BATTERY_CHANGED)) ?: return Power(1.0, true)
        val level = status.getIntExtra(BatteryManager.EXTRA_LEVEL, -1)
        val scale = status.getIntExtra(BatteryManager.EXTRA_SCALE, -1)
        val plugged = status.getIntExtra(BatteryManager.EXTRA_PLUGGED, 0) != 0
        return if (level < 0 || scale <= 0) Power(1.0, true) else Power(level / scale.toDouble(), plugged)
    }
}
