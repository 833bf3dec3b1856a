package pocketstep.testing

import org.junit.internal.TextListener
import org.junit.runner.JUnitCore
import org.junit.runner.Result
import org.junit.runner.notification.Failure
import java.io.PrintStream

/**
 * Runs the test classes that its arguments name, after the name of their module; a test that is skipped fails them all:
 * on the desktop everything is there. Native libraries' threads don't keep the process from ending.
 */
public object RunTests {
    @JvmStatic
    public fun main(arguments: Array<String>) {
        val core = JUnitCore()
        core.addListener(Listener(arguments[0], System.out))
        val result = core.run(*arguments.drop(1).map { Class.forName(it) }.toTypedArray())
        System.out.flush()
        val isGood = result.wasSuccessful() && result.runCount > 0 && result.skipped == 0
        java.lang.Runtime.getRuntime().halt(if (isGood) 0 else 1)
    }

    private class Listener(
        private val module: String,
        private val out: PrintStream,
    ) : TextListener(out) {
        override fun testAssumptionFailure(failure: Failure) = out.println("skipped ${failure.description}: ${failure.message}")

        override fun testRunFinished(result: Result) {
            printFailures(result)
            out.println("\n${result.runTime / 1000.0} s")
            val passed = result.runCount - result.failureCount - result.assumptionFailureCount
            out.println("$module: $passed passed, ${result.failureCount} failed, ${result.skipped} skipped")
        }
    }

    private val Result.skipped: Int get() = ignoreCount + assumptionFailureCount
}
