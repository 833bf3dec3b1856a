package pocketstep.testing

import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.CoroutineStart
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.Job
import kotlinx.coroutines.async
import kotlinx.coroutines.coroutineScope
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import pocketstep.learner.BlockingLearner
import pocketstep.learner.Budget
import pocketstep.learner.Bundle
import pocketstep.learner.BundleException
import pocketstep.learner.CheckFailedException
import pocketstep.learner.Golden
import pocketstep.learner.Images
import pocketstep.learner.InputException
import pocketstep.learner.Learner
import pocketstep.learner.Options
import pocketstep.learner.Prediction
import pocketstep.learner.Runtime
import pocketstep.learner.StateException
import pocketstep.learner.Validation
import java.nio.file.Files
import java.nio.file.Path
import java.util.Properties
import kotlin.math.abs

/** What holds on every runtime, on a device, an emulator, or the desktop with the AAR's own native library. */
public abstract class RuntimeContract {
    public abstract val runtime: Runtime

    /** Which updates are compared with Python's. */
    public open val methods: List<String> get() = listOf("closed-form", "replay", "auto")

    @get:Rule
    public val temporary: TemporaryFolder = TemporaryFolder()

    private val stateFolder: Path get() = temporary.root.toPath().resolve("state")
    private val exchange: Path get() = Fixtures.exchange.resolve(runtime.name)

    private fun open(
        state: Path = stateFolder,
        options: Options = Options(threads = 1),
    ) = BlockingLearner.open(Fixtures.bundle, state, runtime, options)

    /** What Python's run of this name noted beside its predictions. */
    private fun noted(name: String) = Properties().apply { Files.newInputStream(exchange.resolve("$name.properties")).use(::load) }

    private fun content(folder: Path): Map<String, String> =
        folder.toFile().listFiles()!!.associate { it.name to "${it.length()} bytes, ${it.readBytes().contentHashCode()}" }

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
        val expected = noted("paths")
        BlockingLearner.open(exchange.resolve("paths.bundle"), stateFolder, runtime, Options(threads = 1)).use { learner ->
            learner.addClass(NEW)
            learner.observe(Fixtures.images("train"), NEW)
            val report = learner.update(method = "replay")
            assertEquals(expected["steps"].toString().toInt(), report.phases.sumOf { it.steps })
            assertSamePredictions("paths", Raw.read(exchange.resolve("paths.raw")), learner.classify(Fixtures.images("test")))
        }
    }

    /** A bundle that keeps no image: *auto* ends with the closed form, for the same reason. */
    @Test
    public fun trainsNothingThatItCannotJudge() {
        val expected = noted("bare")
        BlockingLearner.open(exchange.resolve("bare.bundle"), stateFolder, runtime, Options(threads = 1)).use { learner ->
            learner.addClass(NEW)
            learner.observe(Fixtures.images("train"), NEW)
            val report = learner.update()
            assertEquals(expected["reason"], report.reason)
            assertEquals(expected["phases"].toString().toInt(), report.phases.size)
            assertSamePredictions("bare", Raw.read(exchange.resolve("bare.raw")), learner.classify(Fixtures.images("test")))
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

    @Test
    public fun learnsKeepsAndTakesBack() {
        val probe = Fixtures.images("test", 0, 40)
        val learned: Prediction
        open().use { learner ->
            val before = learner.classify(probe)
            learner.addClass(NEW)
            assertEquals(30, learner.observe(Fixtures.images("train", 0, 30), NEW))
            assertEquals(listOf(NEW), learner.status().notYetLearned)
            val report = learner.update(method = "closed-form")
            assertTrue(report.reason, report.accepted)
            assertTrue(report.newAccuracy > 0.7)
            learned = learner.classify(probe)
            assertEquals(before.classes + NEW, learned.classes)
            assertThrows(InputException::class.java) { learner.update() }
        }
        open().use { learner ->
            assertSame(learned, learner.classify(probe))
            learner.rollback()
            assertEquals(30, learner.status().pendingSamples)
            assertFalse(NEW in learner.classify(probe).classes)
            assertThrows(StateException::class.java) { learner.rollback() }
        }
    }

    @Test
    public fun budgetsAreKept() {
        open().use { learner ->
            learner.addClass(NEW)
            learner.observe(Fixtures.images("train", 0, 20), NEW)
            val before = content(stateFolder)
            assertThrows(CheckFailedException::class.java) { learner.update(Budget(memoryMb = 1e-3)) }
            assertEquals(before, content(stateFolder))
            val report = learner.update(Budget(seconds = 1e-6))
            assertTrue(report.phases.all { it.steps == 0 })
            assertTrue(report.accepted) // the closed form takes no steps
        }
    }

    @Test
    public fun cancellingAtAnyStepChangesNothing() {
        runBlocking {
            Learner.open(Fixtures.bundle, stateFolder, runtime, Options(threads = 1)).use { learner ->
                learner.addClass(NEW)
                learner.observe(Fixtures.images("train", 0, 20), NEW)
                val before = content(stateFolder)
                for (step in 1..3) {
                    coroutineScope {
                        val update = async(Dispatchers.Default) { runCatching { learner.update(method = "replay") } }
                        learner.progress.first { it.step >= step }
                        update.cancel()
                        update.join()
                        assertTrue(update.isCancelled || update.await().exceptionOrNull() is CancellationException)
                    }
                    assertEquals(before, content(stateFolder))
                }
                assertTrue(learner.update(method = "closed-form").accepted)
            }
        }
    }

    /** Whatever is being done, and whichever call of the program it is cancelled at: all files are as they were. */
    @Test
    public fun everythingCanBeCancelled() {
        var cancelAt = 0
        lateinit var running: Job
        val watched = WatchedRuntime(runtime) { if (--cancelAt == 0) running.cancel() }
        val works =
            listOf<Pair<Int, suspend (Learner) -> Unit>>(
                1 to { it.classify(Fixtures.images("test", 0, 5)) },
                1 to { it.observe(Fixtures.images("train", 20, 5), NEW) },
                2 to { it.observe(Fixtures.images("train", 20, 5), NEW) },
                1 to { it.update(method = "closed-form") },
                3 to { it.update(method = "closed-form") },
                1 to { it.forget("3") },
            )
        runBlocking {
            Learner.open(Fixtures.bundle, stateFolder, watched, Options(threads = 1)).use { learner ->
                learner.addClass(NEW)
                learner.observe(Fixtures.images("train", 0, 20), NEW)
                val before = content(stateFolder)
                for ((call, work) in works) {
                    cancelAt = call
                    running = launch(Dispatchers.Default, CoroutineStart.LAZY) { work(learner) }
                    running.join()
                    assertTrue(running.isCancelled)
                    assertEquals("call $call", before, content(stateFolder).filterKeys { it in before.keys || !it.startsWith("latents") })
                }
                assertTrue(learner.update(method = "closed-form").accepted)
            }
        }
    }

    @Test
    public fun anUpdateWithoutMemoryChangesNothing() {
        val watched = WatchedRuntime(runtime) { if (it == "solve") throw OutOfMemoryError("as if") }
        BlockingLearner.open(Fixtures.bundle, stateFolder, watched, Options(threads = 1)).use { learner ->
            learner.addClass(NEW)
            learner.observe(Fixtures.images("train", 0, 10), NEW)
            val before = content(stateFolder)
            val error = assertThrows(CheckFailedException::class.java) { learner.update(method = "closed-form") }
            assertTrue(error.message!!.contains("ran out of memory; nothing was changed"))
            assertEquals(before, content(stateFolder))
        }
    }

    @Test
    public fun callsOfManyCoroutinesTakeTurns() {
        runBlocking {
            Learner.open(Fixtures.bundle, stateFolder, runtime, Options(threads = 1)).use { learner ->
                val expected = learner.classify(Fixtures.images("test", 0, 5))
                coroutineScope { repeat(8) { launch { assertSame(expected, learner.classify(Fixtures.images("test", 0, 5))) } } }
                assertThrows(StateException::class.java) { open() }
            }
            open().close()
        }
    }

    @Test
    public fun badInputIsNamedAndChangesNothing() {
        open().use { learner ->
            val (height, width, channels) = learner.bundle.manifest.task.input.shape
            val nan = Images.ofFloats(FloatArray(height * width * channels) { Float.NaN }, 1, height, width, channels)
            val bright = Images.ofFloats(FloatArray(height * width * channels) { 256f }, 1, height, width, channels)
            val large = Images.ofBytes(ByteArray((height + 1) * width * channels), 1, height + 1, width, channels)
            val none = Images.ofBytes(ByteArray(0), 0, height, width, channels)
            for (images in listOf(nan, bright, large, none)) {
                assertThrows(InputException::class.java) { learner.classify(images) }
                assertThrows(InputException::class.java) { learner.observe(images, "3") }
            }
            for (name in listOf("", "a\nb", "x".repeat(201), "\u0000", "3")) {
                assertThrows(InputException::class.java) { learner.addClass(name) }
            }
            assertThrows(InputException::class.java) { learner.observe(Fixtures.images("train", 0, 1), "cat") }
            assertThrows(InputException::class.java) { learner.update() }
            assertThrows(InputException::class.java) { learner.update(method = "magic") }
            assertEquals(setOf(".lock"), content(stateFolder).keys)
            val free = learner.status().freeSlots
            repeat(free) { learner.addClass("class $it") }
            assertThrows(InputException::class.java) { learner.addClass("one too many") }
        }
        assertThrows(InputException::class.java) { open(options = Options(threads = 0)) }
        assertThrows(InputException::class.java) { open().apply { close() }.status() }
    }

    @Test
    public fun aProgramThatIsNoneIsABundleError() {
        val entry = Bundle.open(Fixtures.bundle).manifest.runtimes.getValue(runtime.name)
        val other = Bundle.open(Fixtures.bundle).manifest.files.keys.first { it.startsWith("replay") }
        assertThrows(entry.file, BundleException::class.java) { runtime.load(Bundle.open(Fixtures.bundle), other, 1) }
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

    private fun assertSame(
        expected: Prediction,
        found: Prediction,
    ) {
        assertEquals(expected.classes, found.classes)
        expected.probabilities.zip(found.probabilities).forEach { (a, b) -> assertArrayEquals(a, b, 0f) }
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

    private companion object {
        const val NEW = "9"
    }
}
