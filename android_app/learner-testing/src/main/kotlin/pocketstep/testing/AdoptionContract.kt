package pocketstep.testing

import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.CoroutineStart
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.async
import kotlinx.coroutines.runBlocking
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import pocketstep.learner.BlockingLearner
import pocketstep.learner.BundleException
import pocketstep.learner.InputException
import pocketstep.learner.Learner
import pocketstep.learner.Options
import pocketstep.learner.PocketstepException
import pocketstep.learner.Runtime
import pocketstep.learner.StateException
import java.io.File
import java.nio.file.Path
import java.util.Properties
import java.util.concurrent.atomic.AtomicInteger

/** A state under a newer bundle: what Python's `adopt` says and writes (`tests/android/adoptions.py`). */
public abstract class AdoptionContract {
    public abstract val runtime: Runtime

    @get:Rule
    public val temporary: TemporaryFolder = TemporaryFolder()

    private val options = Options(threads = 1)
    private val cases: List<File> by lazy {
        Fixtures.exchange.resolve("${runtime.name}/adopt").toFile().listFiles()!!.sortedBy { it.name }
    }

    private fun expected(case: File) = Properties().apply { File(case, "verdict.properties").reader().use(::load) }

    private fun bundle(case: File): Path = Fixtures.exchange.resolve("bundles").resolve(expected(case).getProperty("bundle"))

    private fun stateOf(case: File): File = temporary.newFolder().also { File(case, "before").copyRecursively(it, overwrite = true) }

    /** Names and sizes of what counts; Python's own lock is left out. */
    private fun files(folder: File) = folder.listFiles()!!.filter { it.name != ".lock" }.associate { it.name to it.length() }

    @Test
    public fun sameVerdictsAndFilesAsPython() {
        assertTrue(cases.size >= 10)
        for (case in cases) {
            val state = stateOf(case)
            val found = verdict(bundle(case), state.toPath())
            assertEquals(case.name, expected(case).toSortedMap(compareBy { "$it" }) - "bundle", found.toSortedMap())
            assertEquals(case.name, files(File(case, "after")), files(state))
            val out = Fixtures.forPython?.resolve("adopt/${runtime.name}/${case.name}")?.toFile() ?: continue
            state.copyRecursively(out, overwrite = true)
        }
    }

    private fun verdict(
        bundle: Path,
        state: Path,
    ): Map<String, String> =
        try {
            val found = BlockingLearner.adopt(bundle, state, runtime, options, method = "closed-form")
            mapOf(
                "accepted" to if (found.accepted) "True" else "False",
                "how" to found.how,
                "classes" to found.classes.joinToString(","),
                "samples" to "${found.samples}",
                "reason" to found.reason,
                "notes" to "${found.notes.size}",
            )
        } catch (error: PocketstepException) {
            mapOf("error" to pythonName(error), "message" to error.message.orEmpty())
        }

    private fun pythonName(error: PocketstepException): String =
        when (error) {
            is BundleException -> "BundleError"
            is StateException -> "StateError"
            is InputException -> "InputError"
            else -> error.javaClass.simpleName
        }

    /** Whichever call of the program it is cancelled at: every snapshot is as it was, and the next adoption succeeds. */
    @Test
    public fun cancellingAtAnyCallChangesNothing() {
        val case = cases.first { it.name == "replays" }
        val state = stateOf(case)
        val calls = AtomicInteger()
        for (last in 1..LAST_CALL) {
            calls.set(0)
            val cancelled =
                runBlocking {
                    lateinit var cancel: () -> Unit
                    val watched = WatchedRuntime(runtime) { if (calls.incrementAndGet() == last) cancel() }
                    val work =
                        async(Dispatchers.Default, CoroutineStart.LAZY) {
                            runCatching { Learner.adopt(bundle(case), state.toPath(), watched, options, method = "closed-form") }
                        }
                    cancel = work::cancel
                    work.start()
                    work.join()
                    work.isCancelled || work.await().exceptionOrNull() is CancellationException
                }
            assertTrue("call $last", cancelled && calls.get() == last)
            val snapshots = files(File(case, "before")).filterKeys { it.startsWith("snapshot") }
            assertEquals("call $last", snapshots, files(state).filterKeys { it.startsWith("snapshot") })
        }
        assertTrue(BlockingLearner.adopt(bundle(case), state.toPath(), runtime, options, method = "closed-form").accepted)
        BlockingLearner.open(bundle(case), state.toPath(), runtime, options).use { assertEquals(1, it.status().updates) }
        assertEquals(files(File(case, "after")).keys, files(state).keys)
    }

    private companion object {
        const val LAST_CALL = 6
    }
}
