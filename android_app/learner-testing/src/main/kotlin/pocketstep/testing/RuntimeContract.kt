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
import org.junit.Test
import pocketstep.learner.BlockingLearner
import pocketstep.learner.Budget
import pocketstep.learner.Bundle
import pocketstep.learner.BundleException
import pocketstep.learner.CheckFailedException
import pocketstep.learner.Images
import pocketstep.learner.InputException
import pocketstep.learner.Learner
import pocketstep.learner.Options
import pocketstep.learner.Prediction
import pocketstep.learner.StateException
import java.nio.file.Path

/** What holds on every runtime, on a device, an emulator, or the desktop with the AAR's own native library. */
public abstract class RuntimeContract : PythonContract() {
    private fun content(folder: Path): Map<String, String> =
        folder.toFile().listFiles()!!.associate { it.name to "${it.length()} bytes, ${it.readBytes().contentHashCode()}" }

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

    private fun assertSame(
        expected: Prediction,
        found: Prediction,
    ) {
        assertEquals(expected.classes, found.classes)
        expected.probabilities.zip(found.probabilities).forEach { (a, b) -> assertArrayEquals(a, b, 0f) }
    }
}
