package pocketstep.learner

import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Assume.assumeTrue
import org.junit.Before
import org.junit.Test
import java.nio.file.Files
import java.nio.file.Path
import java.nio.file.Paths

/** The files that Python's tests are made of, with Python's verdicts on them (`tests/android/fixtures.py`). */
class CorpusTest {
    private class Case(
        val path: Path,
        val error: String?,
        val message: String,
        val version: Long?,
    )

    private val folder = System.getProperty("pocketstep.fixtures")?.let { Paths.get(it) }

    @Before
    fun fixturesAreThere() = assumeTrue("scripts/android makes the fixtures", folder != null)

    private fun cases(kind: String): List<Case> {
        val all = Json.parse(Files.readAllBytes(folder!!.resolve("corpus.json")), "the corpus") as List<*>
        return all
            .map { it as Map<*, *> }
            .filter { it["kind"] == kind }
            .map { Case(Paths.get(it["path"] as String), it["error"] as String?, it["message"] as String, it["version"] as Long?) }
    }

    @Test
    fun manifests() = sameVerdicts("manifest", least = 250) { Manifest.parse(Files.readAllBytes(it)) }

    @Test
    fun tensorFiles() = sameVerdicts("tensors", least = 40) { Safetensors.read(Files.readAllBytes(it), it.toString(), asBundle) }

    @Test
    fun bundles() = sameVerdicts("bundle", least = 50) { Bundle.open(it) }

    @Test
    fun targetPacks() {
        val bundle = Bundle.open(folder!!.resolve("bundles/good"))
        sameVerdicts("pack", least = 20) { TargetPack.read(it, bundle) }
    }

    @Test
    fun states() {
        sameVerdicts("state", least = 10) { StateStore(it, "b".repeat(64)).load() }
        for (case in cases("state").filter { it.error == null }) {
            assertEquals(case.path.toString(), case.version, StateStore(case.path, "b".repeat(64)).load()?.version?.toLong())
        }
    }

    /** Reading and writing again gives the bytes that Python wrote. */
    @Test
    fun bytesAreTheSame() {
        val good = cases("tensors").filter { it.error == null }.map { it.path }.filter { it.fileName.toString() in WRITTEN }
        val snapshots = listOf(1, 2).map { folder!!.resolve("states/good/snapshot-00000$it.safetensors") }
        assertEquals(WRITTEN.size, good.size)
        for (path in good + snapshots) {
            val data = Files.readAllBytes(path)
            val file = Safetensors.read(data, path.toString())
            assertArrayEquals(path.toString(), data, Safetensors.write(file.tensors, file.metadata))
        }
    }

    /** A state that was loaded and saved under the same number has the same bytes, its digest and its info included. */
    @Test
    fun snapshotsAreTheSame() {
        val good = folder!!.resolve("states/good")
        val store = StateStore(good, "b".repeat(64))
        val copy = Files.createTempDirectory("states")
        val again = StateStore(copy, "b".repeat(64))
        for (version in 1..2) {
            val snapshot = store.loadVersion(version)
            again.save(snapshot.tensors, snapshot.info)
            val name = "snapshot-00000$version.safetensors"
            assertArrayEquals(Files.readAllBytes(good.resolve(name)), Files.readAllBytes(copy.resolve(name)))
        }
        copy.toFile().deleteRecursively()
    }

    /** Whatever byte of a zip changes: an error, or the same content. */
    @Test
    fun changedZipsNeverGiveOtherContent() {
        val good = Files.readAllBytes(folder!!.resolve("bundles/good.zip"))
        val content = Bundle.open(folder.resolve("bundles/good")).let { bundle -> bundle.manifest.files.keys.associateWith(bundle::read) }
        val path = Files.createTempFile("changed", ".zip")
        var refused = 0
        for (at in good.indices step maxOf(1, good.size / 400)) {
            Files.write(path, good.copyOf().also { it[at] = (it[at].toInt() xor 0xFF).toByte() })
            try {
                val bundle = Bundle.open(path)
                for ((name, bytes) in content) assertArrayEquals(name, bytes, bundle.read(name))
            } catch (_: BundleException) {
                refused++
            }
        }
        assertTrue("$refused refused", refused > 300)
        Files.delete(path)
    }

    /** What an update will take, by the same formula. */
    @Test
    fun forecastsAreTheSame() {
        val manifest = Bundle.open(Paths.get(System.getProperty("pocketstep.bundle"))).manifest
        val lines = Files.readAllLines(folder!!.resolve("exchange/forecast.properties"))
        assertEquals(2, lines.size)
        for ((runtime, numbers) in lines.map { it.split("=") }) {
            val found = Forecast.of(manifest, runtime, cloud = 100, device = 50, training = 2)
            assertEquals(numbers, listOf(found.program, found.data, found.disk).joinToString(" ") { "${it.toLong()}" })
        }
    }

    private fun sameVerdicts(
        kind: String,
        least: Int,
        run: (Path) -> Any?,
    ) {
        val cases = cases(kind)
        assertTrue("${cases.size} cases", cases.size >= least)
        val wrong =
            cases.mapNotNull { case ->
                val found =
                    try {
                        run(case.path)
                        null
                    } catch (error: PocketstepException) {
                        error
                    }
                val expected = case.error?.let { "$it: ${plain(case.message)}" }
                val actual = found?.let { "${pythonName(it)}: ${plain(it.message.orEmpty())}" }
                if (expected == actual) null else "${case.path}\n  Python: $expected\n  Kotlin: $actual"
            }
        assertTrue("${wrong.size} of ${cases.size} differ:\n${wrong.joinToString("\n")}", wrong.isEmpty())
    }

    private fun pythonName(error: PocketstepException): String =
        when (error) {
            is BundleException -> "BundleError"
            is StateException -> "StateError"
            else -> "InputError"
        }

    /** A message without the operating system's or the parser's own words, which stand in brackets. */
    private fun plain(message: String): String {
        var text = message
        while (true) {
            val shorter = BRACKETS.replace(text, "")
            if (shorter == text) return text
            text = shorter
        }
    }

    private companion object {
        val BRACKETS = Regex("\\([^()]*\\)")
        val WRITTEN = setOf("plain.safetensors", "types.safetensors", "empty.safetensors", "names.safetensors")
    }
}
