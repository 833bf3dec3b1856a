package pocketstep.testing

import pocketstep.learner.Bundle
import pocketstep.learner.FloatTensor
import pocketstep.learner.Program
import pocketstep.learner.Runtime

/** A runtime that says which signature it is about to run; what is thrown there is thrown by the call. */
public class WatchedRuntime(
    private val inner: Runtime,
    private val onCall: (signature: String) -> Unit,
) : Runtime {
    override val name: String get() = inner.name

    override fun load(
        bundle: Bundle,
        file: String,
        threads: Int,
    ): Program {
        val program = inner.load(bundle, file, threads)
        return object : Program by program {
            override fun call(
                signature: String,
                inputs: List<FloatTensor>,
            ): List<FloatTensor> {
                onCall(signature)
                return program.call(signature, inputs)
            }
        }
    }
}
