package pocketstep.app

import android.content.Context
import android.text.format.Formatter
import java.text.NumberFormat

/** Numbers as the user's language writes them. */
class Wording(
    private val context: Context,
) {
    private val locale = context.resources.configuration.locales[0]
    private val percent = NumberFormat.getPercentInstance(locale)
    private val number = NumberFormat.getNumberInstance(locale).apply { maximumFractionDigits = 1 }

    /** A share of 0 to 1; "not measured" for NaN. */
    fun percent(share: Double): String = if (share.isNaN()) context.getString(R.string.not_measured) else percent.format(share)

    fun seconds(seconds: Double): String = context.getString(R.string.seconds, number.format(seconds))

    fun bytes(count: Long): String = Formatter.formatShortFileSize(context, maxOf(0, count))

    /** What the battery gave. */
    fun charge(microampHours: Long?): String =
        when {
            microampHours == null -> context.getString(R.string.battery_unknown)
            microampHours == 0L -> context.getString(R.string.battery_too_little)
            else -> context.getString(R.string.battery_spent, number.format(microampHours / MICRO_IN_MILLI))
        }

    fun count(
        plural: Int,
        count: Int,
    ): String = context.resources.getQuantityString(plural, count, count)

    private companion object {
        const val MICRO_IN_MILLI = 1000.0
    }
}
