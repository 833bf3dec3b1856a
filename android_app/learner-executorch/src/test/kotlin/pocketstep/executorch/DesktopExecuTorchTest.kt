package pocketstep.executorch

import com.facebook.soloader.nativeloader.NativeLoader
import com.facebook.soloader.nativeloader.SystemDelegate
import com.sun.jna.Library
import com.sun.jna.NativeLibrary
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import pocketstep.learner.Runtime
import pocketstep.testing.AdoptionContract
import pocketstep.testing.Fixtures
import pocketstep.testing.RuntimeContract
import pocketstep.testing.assertSurvivesKills

/** ExecuTorch's own Android library on the desktop's JVM, through stand-ins for bionic. */
class DesktopExecuTorch : Runtime by ExecuTorch() {
    init {
        val folder = Fixtures.loadNative("executorch", "libc", "libm", "libdl", "liblog", "libandroid")
        if (!NativeLoader.isInitialized()) NativeLoader.init(SystemDelegate())
        for (name in listOf("libc++_shared", "libfbjni", "libexecutorch")) {
            // Each finds its own symbols first, as on Android; the JVM has a C++ library of its own.
            NativeLibrary.getInstance("$folder/$name.so", mapOf(Library.OPTION_OPEN_FLAGS to (LAZY or DEEP_BIND)))
            System.load("$folder/$name.so")
        }
    }

    private companion object {
        const val LAZY = 0x1
        const val DEEP_BIND = 0x8
    }
}

class DesktopExecuTorchTest : RuntimeContract() {
    override val runtime: Runtime = DesktopExecuTorch()
}

class ExecuTorchKilledTest {
    @get:Rule
    val temporary = TemporaryFolder()

    @Test
    fun stateSurvivesKills() =
        assertSurvivesKills(DesktopExecuTorch(), Fixtures.bundle, temporary.root.toPath().resolve("state"), kills = 2)
}

class ExecuTorchAdoptionTest : AdoptionContract() {
    override val runtime: Runtime = DesktopExecuTorch()
}
