package pocketstep.testing

import org.junit.Rule
import org.junit.rules.TemporaryFolder
import pocketstep.learner.BlockingLearner
import pocketstep.learner.Options
import pocketstep.learner.Runtime
import java.nio.file.Path

/** What a runtime is tested with: the fixtures' bundle, a folder for its state, and a class that it does not know. */
public abstract class RuntimeFixture {
    public abstract val runtime: Runtime

    @get:Rule
    public val temporary: TemporaryFolder = TemporaryFolder()

    protected val stateFolder: Path get() = temporary.root.toPath().resolve("state")

    protected fun open(
        state: Path = stateFolder,
        options: Options = Options(threads = 1),
    ): BlockingLearner = BlockingLearner.open(Fixtures.bundle, state, runtime, options)

    protected companion object {
        public const val NEW: String = "9"
    }
}
