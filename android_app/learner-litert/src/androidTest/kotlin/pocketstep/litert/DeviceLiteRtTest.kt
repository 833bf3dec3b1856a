package pocketstep.litert

import androidx.test.platform.app.InstrumentationRegistry
import org.junit.BeforeClass
import pocketstep.learner.Assets
import pocketstep.learner.Runtime
import pocketstep.testing.Fixtures
import pocketstep.testing.RuntimeContract

/**
 * The same tests on a device or an emulator: `scripts/android fixtures` puts the bundle and what Python made of it into
 * the test's assets.
 */
class DeviceLiteRtTest : RuntimeContract() {
    override val runtime: Runtime = LiteRt()

    companion object {
        @JvmStatic
        @BeforeClass
        fun unpack() {
            val context = InstrumentationRegistry.getInstrumentation().context
            Fixtures.bundlePath = Assets.unpack(context, "digits.bundle")
            Fixtures.exchangePath = Assets.unpack(context, "exchange")
        }
    }
}
