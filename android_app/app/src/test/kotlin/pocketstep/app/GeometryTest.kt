package pocketstep.app

import android.graphics.Bitmap
import android.util.Size
import android.view.Surface
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertSame
import org.junit.Test

/** How a camera's picture gets upright and unstretched; on a device only the rest remains to be seen. */
class GeometryTest : AppScene() {
    /** Where points of a content, stretched over a view, are drawn. */
    private fun drawn(
        view: Size,
        natural: Size,
        turn: Int,
        vararg points: Float,
    ): FloatArray = points.also { previewMatrix(view, natural, turn).mapPoints(it) }

    @Test
    fun theMiddleFillsTheView() {
        val portrait = Size(480, 640)
        // A square view shows all of the width, and of the height the middle 480 of 640.
        assertArrayEquals(floatArrayOf(0f, -50f, 300f, 350f), drawn(Size(300, 300), portrait, 0, 0f, 0f, 300f, 300f), 0.01f)
        // Turned, the content's top left goes to the bottom left (270) or the top right (90).
        assertArrayEquals(floatArrayOf(-50f, 300f), drawn(Size(300, 300), portrait, 270, 0f, 0f), 0.01f)
        assertArrayEquals(floatArrayOf(350f, 0f), drawn(Size(300, 300), portrait, 90, 0f, 0f), 0.01f)
        // A view of the content's own proportions shows all of it.
        assertArrayEquals(floatArrayOf(0f, 300f, 400f, 0f), drawn(Size(400, 300), portrait, 270, 0f, 0f, 400f, 300f), 0.01f)
    }

    @Test
    fun turnsUndoTheScreens() {
        val rotations = listOf(Surface.ROTATION_0, Surface.ROTATION_90, Surface.ROTATION_180, Surface.ROTATION_270)
        assertEquals(listOf(0, 270, 180, 90), rotations.map(::turnOf))
        val bitmap = Bitmap.createBitmap(30, 20, Bitmap.Config.ARGB_8888)
        assertSame(bitmap, turned(bitmap, 0))
        assertEquals(20 to 30, turned(bitmap, 270).let { it.width to it.height })
    }

    @Test
    fun previewsAreSmallButNotTooSmall() {
        val sizes = listOf(Size(4000, 3000), Size(1280, 720), Size(640, 480), Size(320, 240))
        assertEquals(Size(640, 480), previewSize(sizes))
        assertEquals(Size(320, 240), previewSize(listOf(Size(320, 240))))
        assertEquals(Size(640, 480), previewSize(emptyList()))
        assertEquals(listOf(1, 2, 8), listOf(500 to 500, 960 to 1280, 4000 to 6000).map { (w, h) -> PictureReader.sampling(w, h) })
    }
}
