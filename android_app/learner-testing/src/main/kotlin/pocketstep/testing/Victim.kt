package pocketstep.testing

import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import pocketstep.learner.BlockingLearner
import pocketstep.learner.Options
import pocketstep.learner.Runtime
import java.io.File
import java.nio.file.Path
import java.nio.file.Paths
import java.util.Random
import java.util.concurrent.TimeUnit

/** A process that learns for ever, to be killed: arguments are a [Runtime]'s class, a bundle and a state folder. */
public object Victim {
    @JvmStatic
    public fun main(args: Array<String>) {
        val runtime = Class.forName(args[0]).getDeclaredConstructor().newInstance() as Runtime
        BlockingLearner.open(Paths.get(args[1]), Paths.get(args[2]), runtime, Options(threads = 1)).use { learner ->
            if ("9" !in learner.classes) learner.addClass("9")
            println("ready")
            while (true) {
                learner.observe(Fixtures.images("train", 0, 5), "9")
                learner.update(method = "closed-form")
                if (learner.status().canRollBack) learner.rollback()
            }
        }
    }
}

/** Kills a process that learns, at random moments, and opens what it left. */
public fun assertSurvivesKills(
    runtime: Runtime,
    bundle: Path,
    state: Path,
    kills: Int,
) {
    val random = Random(SEED)
    val java = File(System.getProperty("java.home"), "bin/java").path
    val properties =
        System.getProperties().filterKeys {
            "$it".startsWith(
                "pocketstep.",
            ) || it == "java.library.path"
        }.map { (key, value) ->
            "-D$key=$value"
        }
    val command = listOf(java) + properties + listOf("-cp", System.getProperty("java.class.path"))
    repeat(kills) { round ->
        val arguments = listOf(Victim::class.java.name, runtime.javaClass.name, bundle.toString(), state.toString())
        val process = ProcessBuilder(command + arguments).redirectErrorStream(true).start()
        val lines = process.inputStream.bufferedReader()
        while (lines.readLine().let { checkNotNull(it) { "the victim died early" } } != "ready") continue
        Thread.sleep(random.nextInt(LONGEST_MS).toLong())
        process.destroyForcibly().waitFor(WAIT_SECONDS, TimeUnit.SECONDS)
        BlockingLearner.open(bundle, state, runtime, Options(threads = 1)).use { learner ->
            val status = learner.status()
            assertEquals("round $round", emptyList<String>(), status.notes)
            assertTrue("round $round", "9" in status.classes)
            println("${runtime.name}: killed, opened version ${status.version} with ${status.storedSamples["9"]} samples")
        }
    }
}

private const val SEED = 5L
private const val LONGEST_MS = 700
private const val WAIT_SECONDS = 20L
