package pocketstep.app

import android.graphics.Bitmap
import android.graphics.Matrix
import android.util.Size
import kotlin.math.abs

private const val QUARTER = 90
private const val FULL = 360
private const val ENOUGH = 480

/** The smallest size with at least 480 pixels a side, 4:3 if there is one; what a preview needs. */
fun previewSize(sizes: List<Size>): Size {
    val enough = sizes.filter { minOf(it.width, it.height) >= ENOUGH }.ifEmpty { sizes }
    val best = enough.minWithOrNull(compareBy({ it.width * it.height }, { abs(it.width * 3 - it.height * 4) }))
    return best ?: Size(640, ENOUGH)
}

/** Degrees clockwise that turn a picture, upright in the device's natural position, upright on the screen. */
fun turnOf(displayRotation: Int): Int = (FULL - QUARTER * displayRotation) % FULL

/**
 * Undoes how a texture view stretches its content, turns it, and fills the view with its middle.
 *
 * @param natural the content's size in the device's natural position.
 * @param turn see [turnOf].
 */
fun previewMatrix(
    view: Size,
    natural: Size,
    turn: Int,
): Matrix {
    val isTurned = turn % (2 * QUARTER) != 0
    val width = if (isTurned) natural.height else natural.width
    val height = if (isTurned) natural.width else natural.height
    val scale = maxOf(view.width / width.toFloat(), view.height / height.toFloat())
    val (x, y) = view.width / 2f to view.height / 2f
    return Matrix().apply {
        setScale(natural.width * scale / view.width, natural.height * scale / view.height, x, y)
        postRotate(turn.toFloat(), x, y)
    }
}

/** The picture turned clockwise; itself if it stands upright. */
fun turned(
    bitmap: Bitmap,
    degrees: Int,
): Bitmap {
    if (degrees % FULL == 0) return bitmap
    val matrix = Matrix().apply { setRotate(degrees.toFloat()) }
    return Bitmap.createBitmap(bitmap, 0, 0, bitmap.width, bitmap.height, matrix, true)
}
