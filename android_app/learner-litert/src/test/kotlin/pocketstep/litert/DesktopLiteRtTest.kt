package pocketstep.litert

import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import pocketstep.learner.Runtime
import pocketstep.testing.AdoptionContract
import pocketstep.testing.Fixtures
import pocketstep.testing.RuntimeContract
import pocketstep.testing.assertSurvivesKills

/** LiteRT with the AAR's own native library on the desktop's JVM, through stand-ins for bionic. */
class DesktopLiteRt : Runtime by LiteRt() {
    init {
        Fixtures.loadNative("litert", "libc", "libm", "libdl", "liblog", "libtensorflowlite_jni")
    }
}

class DesktopLiteRtTest : RuntimeContract() {
    override val runtime: Runtime = DesktopLiteRt()

    /** Without XNNPACK, which needs a real device's processor names, a step takes six to nine times as long. */
    override val methods get() = listOf("closed-form", "replay")
}

class LiteRtKilledTest {
    @get:Rule
    val temporary = TemporaryFolder()

    @Test
    fun stateSurvivesKills() = assertSurvivesKills(DesktopLiteRt(), Fixtures.bundle, temporary.root.toPath().resolve("state"), kills = 4)
}

class LiteRtAdoptionTest : AdoptionContract() {
    override val runtime: Runtime = DesktopLiteRt()
}
