package pocketstep.app

import android.view.View

/** A part of the screen. */
fun interface Panel {
    fun show(ui: UiState)
}

/** Whether a view takes part in the screen. */
var View.isThere: Boolean
    get() = visibility == View.VISIBLE
    set(value) {
        visibility = if (value) View.VISIBLE else View.GONE
    }

/** A share of 0 to 1 on a bar of the style `Bar`. */
fun onBar(share: Double): Int = if (share.isNaN()) 0 else (share * BAR).toInt().coerceIn(0, BAR)

private const val BAR = 1000
