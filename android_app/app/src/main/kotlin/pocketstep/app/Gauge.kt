package pocketstep.app

import android.content.Context
import android.os.BatteryManager
import pocketstep.learner.BatteryPower
import pocketstep.learner.Power
import java.io.File

/** Measures what learning costs. */
class Gauge(
    context: Context,
    private val folder: File,
) {
    private val battery = context.getSystemService(BatteryManager::class.java)
    private val status = BatteryPower(context)

    /** One reading; two of them make a [Cost]. */
    class Reading(
        val bytes: Long,
        val charge: Long?,
    )

    /** Bytes of what is learned. */
    fun bytes(): Long = folder.walk().filter(File::isFile).sumOf(File::length)

    /** For [pocketstep.learner.Budget]. */
    fun power(): Power = status()

    fun read(): Reading = Reading(bytes(), charge())

    fun since(before: Reading): Cost {
        val now = read()
        val used = if (before.charge == null || now.charge == null) null else before.charge - now.charge
        return Cost(now.bytes - before.bytes, used?.takeIf { it >= 0 })
    }

    /** Microampere hours that are left; null on the charger, or where the device has no such counter. */
    private fun charge(): Long? {
        if (status().charging) return null
        val charge = battery?.getIntProperty(BatteryManager.BATTERY_PROPERTY_CHARGE_COUNTER) ?: return null
        return charge.toLong().takeIf { it > 0 }
    }
}
