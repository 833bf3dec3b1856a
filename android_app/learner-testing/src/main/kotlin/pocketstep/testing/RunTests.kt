package pocketstep.testing

import org.junit.internal.TextListener
import org.junit.runner.JUnitCore
import org.junit.runner.Result
import org.junit.runner.notification.Failure
import java.io.PrintStream

/** Runs the test classes that its arguments name. Native libraries' threads don't keep the process from ending. */
public object RunTests {
    @JvmStatic
    public fun main(names: Array<String>) {
        val core = JUnitCore()
        core.addListener(Listener(System.out))
        val result = core.run(*names.map { Class.forName(it) }.toTypedArray())
        System.out.flush()
        java.lang.Runtime.getRuntime().halt(if (result.wasSuccessful()) 0 else 1)
    }

    private class Listener(
        private val out: PrintStream,
    ) : TextListener(out) {
        override fun testAssumptionFailure(failure: Failure) = out.println("skipped ${failure.description}: ${failure.message}")

        override fun testRunFinished(result: Result) {
            printFailures(result)
            out.println("${result.runCount} tests, ${result.failureCount} failed, ${result.runTime / 1000.0} s")
        }
    }
}
