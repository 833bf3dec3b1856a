package pocketstep.app

import android.graphics.Bitmap
import android.graphics.Canvas
import android.graphics.Color
import android.os.Looper
import android.view.View
import android.view.ViewGroup
import android.widget.TextView
import androidx.test.core.app.ApplicationProvider
import org.junit.Assume.assumeTrue
import org.junit.Rule
import org.junit.rules.TemporaryFolder
import org.junit.runner.RunWith
import org.robolectric.Robolectric
import org.robolectric.RobolectricTestRunner
import org.robolectric.Shadows.shadowOf
import org.robolectric.android.controller.ActivityController
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode
import pocketstep.learner.Learner
import pocketstep.learner.Options
import pocketstep.learner.Runtime
import pocketstep.litert.LiteRt
import pocketstep.testing.Fixtures
import pocketstep.testing.Raw
import java.io.File

/** The app's screen over the real library and LiteRT's own native code, with the demo's digits. */
@RunWith(RobolectricTestRunner::class)
@GraphicsMode(GraphicsMode.Mode.NATIVE)
@Config(sdk = [34], qualifiers = "w360dp-h640dp-xhdpi")
abstract class AppScene {
    @get:Rule
    val temporary: TemporaryFolder = TemporaryFolder()

    val app: DemoApplication = ApplicationProvider.getApplicationContext()
    val session: Session get() = app.session
    val ui: UiState get() = session.ui.value

    /** Opens the screen; [source] is the digits' bundle if it is not given. */
    fun start(source: LearnerSource = DigitsSource(temporary.root)): ActivityController<MainActivity> {
        app.source = source
        app.practice = Practice(method = "closed-form") // without XNNPACK, here, all phases take a minute
        return Robolectric.buildActivity(MainActivity::class.java).setup()
    }

    /** Opens the screen, and waits for the learner. */
    fun startReady(): ActivityController<MainActivity> = start().also { until { ui.opening == Opening.Ready } }

    /** Lets the main thread work until something is so. */
    fun until(isSo: () -> Boolean) {
        val end = System.nanoTime() + PATIENCE
        while (!isSo()) {
            check(System.nanoTime() < end) { "waited too long; the screen says $ui" }
            shadowOf(Looper.getMainLooper()).idle()
            Thread.sleep(NAP)
        }
        shadowOf(Looper.getMainLooper()).idle()
    }

    /** Shows [count] pictures of "9", which the bundle does not know, and learns them. */
    fun teachNine(count: Int = 30) {
        session.teach()
        session.rename("9")
        session.add(Digits.nines(count))
        session.learn()
        until { ui.mode is Mode.Learned || ui.notice != null }
    }

    private companion object {
        const val PATIENCE = 120_000_000_000L
        const val NAP = 5L
    }
}

/** LiteRT with the AAR's own native library, through stand-ins for bionic. */
private object DesktopLiteRt : Runtime by LiteRt() {
    init {
        val folder = System.getProperty("pocketstep.native.litert")
        assumeTrue("scripts/android makes the stand-ins for bionic", folder != null)
        for (name in listOf("libc", "libm", "libdl", "liblog", "libtensorflowlite_jni")) System.load("$folder/$name.so")
    }
}

/** The demo's bundle, with a state of its own. */
class DigitsSource(
    folder: File,
) : LearnerSource {
    override val state = File(folder, "state")

    override suspend fun open(): Learner = Learner.open(Fixtures.bundle, state.toPath(), DesktopLiteRt, Options(threads = 1))
}

/** Handwritten digits of scikit-learn, as bitmaps. */
object Digits {
    private const val SIDE = 512

    fun nines(count: Int): List<Bitmap> = read("train", count)

    fun all(): List<Bitmap> = read("test", 60)

    private fun read(
        name: String,
        count: Int,
    ): List<Bitmap> {
        val raw = Raw.read(Fixtures.exchange.resolve("images/$name.raw"))
        val (_, height, width) = raw.shape
        return List(count) { index ->
            val colours =
                IntArray(height * width) {
                    val grey = raw.bytes[index * height * width + it].toInt() and 0xFF
                    Color.rgb(grey, grey, grey)
                }
            framed(Bitmap.createBitmap(colours, width, height, Bitmap.Config.ARGB_8888))
        }
    }

    /** Larger by doubling, which is smoother than at once, and with dark sides like a photo's. */
    private fun framed(small: Bitmap): Bitmap {
        var digit = small
        while (digit.width < SIDE) digit = Bitmap.createScaledBitmap(digit, 2 * digit.width, 2 * digit.height, true)
        val photo = Bitmap.createBitmap(SIDE * 3 / 2, SIDE, Bitmap.Config.ARGB_8888)
        Canvas(photo).apply {
            drawColor(Color.BLACK)
            drawBitmap(digit, SIDE / 4f, 0f, null)
        }
        return photo
    }
}

/** All views of a screen that can be seen. */
fun View.seen(): Sequence<View> =
    sequence {
        if (visibility != View.VISIBLE) return@sequence
        yield(this@seen)
        if (this@seen is ViewGroup) for (index in 0 until childCount) yieldAll(getChildAt(index).seen())
    }

/** All text of a screen that can be seen. */
fun View.text(): String = seen().filterIsInstance<TextView>().joinToString("\n") { it.text }
