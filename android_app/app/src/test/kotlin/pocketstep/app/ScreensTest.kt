package pocketstep.app

import android.content.res.Configuration
import android.graphics.Bitmap
import android.graphics.Canvas
import android.view.View
import android.view.View.MeasureSpec
import android.widget.EditText
import android.widget.ScrollView
import android.widget.TextView
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import org.robolectric.RuntimeEnvironment
import java.io.File

/**
 * The screens as they are drawn: nothing is cut, in any language, theme and size of letters.
 *
 * `scripts/android screens` keeps the pictures; every number on them is the real learner's.
 */
class ScreensTest : AppScene() {
    @Test
    fun light() = tour("light", "en", "notnight")

    @Test
    fun dark() = tour("dark", "en", "night")

    @Test
    fun largeLetters() {
        RuntimeEnvironment.setFontScale(1.8f)
        tour("large", "en", "notnight")
    }

    @Test
    fun german() = tour("german", "de", "notnight")

    @Test
    fun lying() {
        RuntimeEnvironment.setQualifiers("en-w640dp-h360dp-land-notnight-xhdpi")
        val activity = startReady().get()
        assertEquals(Configuration.ORIENTATION_LANDSCAPE, activity.resources.configuration.orientation)
        session.show(Digits.all().first())
        until { ui.guesses.isNotEmpty() }
        draw(activity, "lying")
    }

    private fun tour(
        name: String,
        language: String,
        theme: String,
    ) {
        RuntimeEnvironment.setQualifiers("$language-w360dp-h640dp-port-$theme-xhdpi")
        val activity = startReady().get()
        session.show(Digits.nines(40).last())
        until { ui.guesses.isNotEmpty() }
        draw(activity, "$name-sees")
        session.teach()
        activity.findViewById<EditText>(R.id.teach_name).setText("9")
        session.add(Digits.nines(8))
        until { true }
        draw(activity, "$name-teach")
        session.add(Digits.nines(30).drop(8))
        session.learn()
        until { ui.mode is Mode.Learned && ui.facts.canUndo && ui.guesses.firstOrNull()?.name == "9" }
        draw(activity, "$name-learned")
        session.watch()
        session.complain(Problem.CAMERA_REFUSED)
        until { true }
        draw(activity, "$name-knows", scroll = true)
    }

    private fun draw(
        activity: MainActivity,
        name: String,
        scroll: Boolean = false,
    ) {
        val root = activity.window.decorView
        val page = activity.findViewById<ScrollView>(R.id.page)
        lay(root)
        page.scrollTo(0, if (scroll) page.getChildAt(0).height else 0)
        assertNothingIsCut(page)
        val bitmap = Bitmap.createBitmap(root.width, root.height, Bitmap.Config.ARGB_8888)
        root.draw(Canvas(bitmap))
        val folder = System.getProperty("pocketstep.screens") ?: return
        File(folder).mkdirs()
        File(folder, "$name.png").outputStream().use { bitmap.compress(Bitmap.CompressFormat.PNG, 100, it) }
    }

    /** Views that changed are laid out at the next frame, for which a test does not wait. */
    private fun lay(root: View) {
        val (width, height) = root.width to root.height
        root.measure(MeasureSpec.makeMeasureSpec(width, MeasureSpec.EXACTLY), MeasureSpec.makeMeasureSpec(height, MeasureSpec.EXACTLY))
        root.layout(0, 0, width, height)
    }

    private fun assertNothingIsCut(page: View) {
        for (view in page.seen().filterIsInstance<TextView>()) {
            val what = "“${view.text}” (${view.width} x ${view.height})"
            val layout = checkNotNull(view.layout) { what }
            val bottom = layout.getLineBottom(layout.lineCount - 1, false)
            assertTrue(what, bottom <= view.height - view.compoundPaddingTop - view.compoundPaddingBottom + 1)
            val room = view.width - view.compoundPaddingLeft - view.compoundPaddingRight + 1
            for (line in 0 until layout.lineCount) {
                assertEquals(what, 0, layout.getEllipsisCount(line))
                assertTrue(what, layout.getLineMax(line) <= room)
            }
            val parent = view.parent as View
            assertTrue("$what in ${parent.width}", view.left >= 0 && view.right <= parent.width)
        }
    }
}
