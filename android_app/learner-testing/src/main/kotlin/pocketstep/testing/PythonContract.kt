package pocketstep.testing

import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test
import pocketstep.learner.BlockingLearner
import pocketstep.learner.Bundle
import pocketstep.learner.Golden
import pocketstep.learner.InputException
import pocketstep.learner.Options
import pocketstep.learner.Prediction
import pocketstep.learner.UpdateReport
import pocketstep.learner.Validation
import java.nio.file.Files
import java.nio.file.Path
import java.util.Properties
import kotlin.math.abs

/** What Python says, on every runtime: its answers, its updates from the same seed, and the bytes of its states. */
public abstract class PythonContract : RuntimeFixture() {
    /** Which updates are compared with Python's. */
    public open val methods: List<String> get() = listOf("closed-form", "replay", "auto")

    private val exchange: Path get() = Fixtures.exchange.resolve(runtime.name)

    /** What Python's run of this name noted beside its predictions. */
    private fun noted(name: String) = Properties().apply { Files.newInputStream(exchange.resolve("$name.properties")).use(::load) }

    @Test
    public fun goldenTraceAgrees() {
        val calls = Golden.replay(Bundle.open(Fixtures.bundle), runtime, threads = 1)
        val worst = calls.maxBy { it.worst }
        println("${runtime.name}: golden error ${worst.worst} in ${worst.signature} of ${calls.size} calls")
        assertTrue("${worst.signature}, call ${worst.index}: ${worst.errors}", worst.worst <= Golden.TOLERANCE)
        assertTrue(calls.map { it.signature }.containsAll(listOf("encode", "classify", "step", "score", "statistics", "solve")))
    }

    /** The report that `pocketstep validate` reads: within tolerance, and the made-up class as Python learns it. */
    @Test
    public fun validatesAsPythonDoes() {
        val facts = mapOf("runtime_version" to "x")
        val text = Validation.report(Fixtures.bundle, runtime, stateFolder, facts, 1, Golden.TOLERANCE, true)
        val expected = noted("validation")
        assertTrue(text, text.contains("\"passed\":true,\"error\":null,\"error_code\":0}"))
        assertTrue(text, text.contains("\"accepted\":${expected["accepted"]}"))
        val answers = text.substringAfter("\"predictions\":[").substringBefore("]").split(",")
        val wanted = expected.getProperty("predictions").split(",")
        assertEquals(wanted.size, answers.size)
        val same = answers.indices.count { answers[it] == wanted[it] } / wanted.size.toDouble()
        println("${runtime.name} validation: $same of the made-up task's answers as Python's")
        assertTrue("only $same", same >= 0.98)
        val strict = Validation.report(Fixtures.bundle, runtime, stateFolder, facts, 1, 1e-12, false)
        assertTrue(strict, strict.contains("\"learning\":null") && strict.contains("\"passed\":false,\"error\":null"))
        val gone = Validation.report(stateFolder.resolve("gone"), runtime, stateFolder, facts, 1, 1e-4, true)
        assertTrue(gone, gone.contains("\"golden\":null") && gone.endsWith("\"error_code\":2}"))
    }

    @Test
    public fun predictsWhatPythonPredicts() {
        open().use { assertSamePredictions("before", Raw.read(exchange.resolve("before.raw")), it.classify(Fixtures.images("test"))) }
    }

    /** The same update from the same state and seed: Python's predictions. */
    @Test
    public fun learnsWhatPythonLearns() {
        for (method in methods) {
            val expected = noted(method)
            val state = temporary.newFolder(method)
            exchange.resolve("before").toFile().copyRecursively(state)
            open(state.toPath()).use { learner ->
                val report = learner.update(method = method)
                assertEquals(expected["accepted"] == "True", report.accepted)
                assertEquals(expected["steps"].toString().toInt(), report.phases.sumOf { it.steps })
                assertSamePredictions(method, Raw.read(exchange.resolve("$method.raw")), learner.classify(Fixtures.images("test")))
                leaveForPython(learner, state.toPath(), method)
            }
        }
    }

    /** Images without labels and a teacher's answers to them: Python's predictions, nothing stored, and taken back whole. */
    @Test
    public fun learnsFromATargetPackAsPythonDoes() {
        val expected = noted("targets")
        val pack = exchange.resolve("unlabelled.pack")
        open().use { learner ->
            assertThrows(InputException::class.java) { learner.update(method = "targets") }
            val report = learner.update(pack)
            assertEquals(expected["accepted"] == "True", report.accepted)
            assertEquals(expected["chosen"], report.chosen)
            assertEquals(expected["steps"].toString().toInt(), report.phases.sumOf { it.steps })
            assertSamePredictions("targets", Raw.read(exchange.resolve("targets.raw")), learner.classify(Fixtures.images("test")))
            assertEquals(0, learner.status().storedSamples.values.sum())
            learner.rollback()
            assertSamePredictions("before", Raw.read(exchange.resolve("before.raw")), learner.classify(Fixtures.images("test")))
            assertTrue(learner.update(pack).accepted)
        }
    }

    /** A bundle with critical paths, those of the new class ten times as fast: Python's predictions. */
    @Test
    public fun learnsAlongPathsAsPythonDoes() {
        learnsAsPythonDoes("paths", method = "replay") { expected, report ->
            assertEquals(expected["steps"].toString().toInt(), report.phases.sumOf { it.steps })
        }
    }

    /** A bundle that keeps no image: *auto* ends with the closed form, for the same reason. */
    @Test
    public fun trainsNothingThatItCannotJudge() {
        learnsAsPythonDoes("bare", method = "auto") { expected, report ->
            assertEquals(expected["reason"], report.reason)
            assertEquals(expected["phases"].toString().toInt(), report.phases.size)
        }
    }

    private fun learnsAsPythonDoes(
        bundle: String,
        method: String,
        check: (Properties, UpdateReport) -> Unit,
    ) {
        BlockingLearner.open(exchange.resolve("$bundle.bundle"), stateFolder, runtime, Options(threads = 1)).use { learner ->
            learner.addClass(NEW)
            learner.observe(Fixtures.images("train"), NEW)
            check(noted(bundle), learner.update(method = method))
            assertSamePredictions(bundle, Raw.read(exchange.resolve("$bundle.raw")), learner.classify(Fixtures.images("test")))
        }
    }

    /** A state that Python learned is predicted from, taken back and learned from again. */
    @Test
    public fun continuesWherePythonStopped() {
        val state = temporary.newFolder("python")
        exchange.resolve("after-closed-form").toFile().copyRecursively(state)
        open(state.toPath()).use { learner ->
            assertSamePredictions("state", Raw.read(exchange.resolve("closed-form.raw")), learner.classify(Fixtures.images("test")))
            assertEquals(1, learner.status().updates)
            learner.rollback()
            assertEquals(40, learner.status().pendingSamples)
            assertSamePredictions("rollback", Raw.read(exchange.resolve("before.raw")), learner.classify(Fixtures.images("test")))
            assertTrue(learner.update(method = "closed-form").accepted)
        }
    }

    /** What the first change writes is what Python writes, byte for byte but for the runtime's own rounding. */
    @Test
    public fun writesWhatPythonWrites() {
        open().use { it.addClass("ç 東 \uD83D\uDE00") }
        val name = "snapshot-000001.safetensors"
        val expected = Files.readAllBytes(exchange.resolve("first").resolve(name))
        val found = Files.readAllBytes(stateFolder.resolve(name))
        assertEquals(expected.size, found.size)
        val out = Fixtures.forPython?.resolve("first-${runtime.name}") ?: return
        Files.createDirectories(out)
        Files.write(out.resolve(name), found)
    }

    private fun assertSamePredictions(
        what: String,
        expected: Raw,
        found: Prediction,
    ) {
        val rows = expected.rows()
        assertEquals(rows.size, found.probabilities.size)
        val same = rows.indices.count { best(rows[it]) == best(found.probabilities[it]) } / rows.size.toDouble()
        val error = rows.indices.maxOf { row -> rows[row].indices.maxOf { abs(rows[row][it] - found.probabilities[row][it]) } }
        println("${runtime.name} $what: $same of predictions as Python's, probabilities within $error")
        assertTrue("$what: only $same", same >= 0.995)
    }

    private fun best(row: FloatArray): Int = row.indices.maxBy { row[it] }

    private fun leaveForPython(
        learner: BlockingLearner,
        state: Path,
        method: String,
    ) {
        val out = Fixtures.forPython?.resolve("${runtime.name}-$method") ?: return
        state.toFile().copyRecursively(out.resolve("state").toFile(), overwrite = true)
        Files.copy(Fixtures.exchange.resolve("images/test.raw"), out.resolve("images.raw"))
        Raw.writeFloats(out.resolve("probabilities.raw"), learner.classify(Fixtures.images("test")).probabilities)
    }
}
