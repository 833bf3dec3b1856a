package pocketstep.testing

import org.junit.Assume.assumeTrue
import pocketstep.learner.Images
import java.nio.file.Path
import java.nio.file.Paths

/** Where tests find a bundle and what Python made of it: the folders that `scripts/android` fills. */
public object Fixtures {
    /** The bundle; set by an instrumented test before its first use, by a system property on the desktop. */
    @Volatile public var bundlePath: Path? = System.getProperty("pocketstep.bundle")?.let { Paths.get(it) }

    /** `exchange` of `tests/android/fixtures.py`. */
    @Volatile public var exchangePath: Path? = System.getProperty("pocketstep.fixtures")?.let { Paths.get(it, "exchange") }

    /** Where states are left for Python to open; nowhere if null. */
    public val forPython: Path? = System.getProperty("pocketstep.out")?.let { Paths.get(it) }

    public val bundle: Path
        get() {
            assumeTrue("scripts/android makes the bundle", bundlePath != null)
            return checkNotNull(bundlePath)
        }

    public val exchange: Path
        get() {
            assumeTrue("scripts/android makes the fixtures", exchangePath != null)
            return checkNotNull(exchangePath)
        }

    /** Loads stand-ins for bionic, and a runtime's own libraries, into the desktop's JVM; where they lie. */
    public fun loadNative(
        runtime: String,
        vararg names: String,
    ): String {
        val folder: String? = System.getProperty("pocketstep.native.$runtime")
        assumeTrue("scripts/android makes the stand-ins for bionic", folder != null)
        for (name in names) System.load("$folder/$name.so")
        return checkNotNull(folder)
    }

    /** Images `train` of a class to learn, or `test` images of all classes; [count] of them from [start]. */
    public fun images(
        name: String,
        start: Int = 0,
        count: Int? = null,
    ): Images {
        val raw = Raw.read(exchange.resolve("images/$name.raw"))
        val (all, height, width, channels) = raw.shape
        val chosen = count ?: (all - start)
        val size = raw.size / all
        return Images.ofBytes(raw.bytes.copyOfRange(start * size, (start + chosen) * size), chosen, height, width, channels)
    }
}
