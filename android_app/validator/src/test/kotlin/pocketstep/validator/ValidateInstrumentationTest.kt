package pocketstep.validator

import android.content.Context
import android.os.Bundle
import androidx.test.core.app.ApplicationProvider
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.RobolectricTestRunner
import org.robolectric.annotation.Config
import pocketstep.learner.Runtime
import pocketstep.litert.LiteRt
import pocketstep.testing.Fixtures
import java.io.File

/** The instrumentation on Robolectric, on LiteRT's own Android library: in a process of its own, since it is loaded once. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [34], manifest = Config.NONE)
class ValidateInstrumentationTest {
    private val context: Context = ApplicationProvider.getApplicationContext()

    private class OnDesktop : ValidateInstrumentation() {
        override fun runtime(name: String): Runtime {
            val runtime = super.runtime(name)
            if (runtime is LiteRt) Fixtures.loadNative("litert", "libc", "libm", "libdl", "liblog", "libtensorflowlite_jni")
            return runtime
        }
    }

    private fun report(vararg arguments: Pair<String, String>): String {
        val bundle = Bundle().apply { arguments.forEach { (key, value) -> putString(key, value) } }
        return OnDesktop().validate(context, bundle)
    }

    @Test
    fun validatesABundleInTheAppsFiles() {
        Fixtures.bundle.toFile().copyRecursively(File(context.filesDir, "bundle"))
        val text = report("bundle" to "bundle", "runtime" to "litert", "threads" to "1", "tolerance" to "1e-4", "learning" to "true")
        assertTrue(text, text.startsWith("{\"format\":1,\"runtime\":\"litert\""))
        assertTrue(text, text.contains("\"system\":\"Android 14 (API 34)\"") && text.contains("\"python\":null"))
        assertTrue(text, text.contains("\"method\":\"closed-form\",\"taught\":40,\"accepted\":true"))
        assertTrue(text, text.endsWith("\"passed\":true,\"error\":null,\"error_code\":0}"))
        Fixtures.forPython?.resolve("validator-report.json")?.toFile()?.writeText(text)
        val gone = report("bundle" to "gone", "runtime" to "litert")
        assertTrue(gone, gone.contains("There is no bundle at") && gone.endsWith("\"error_code\":2}"))
    }

    @Test
    fun wrongArgumentsAreNamed() {
        val without = assertThrows(IllegalArgumentException::class.java) { report("runtime" to "litert") }
        assertEquals("give the bundle: -e bundle NAME", without.message)
        assertThrows(IllegalArgumentException::class.java) { report("bundle" to "b", "runtime" to "coreml") }
        val threads = assertThrows(IllegalArgumentException::class.java) { report("bundle" to "b", "threads" to "two") }
        assertEquals("-e threads takes a number", threads.message)
    }
}
