package pocketstep.learner

import java.io.Closeable

/** An inference runtime: the one thing that the learner needs beside this library. */
public interface Runtime {
    /** Its key in the manifest's `runtimes`: `litert` or `executorch`. */
    public val name: String

    /**
     * Loads the program [file] of a bundle.
     *
     * @param threads CPU threads.
     * @throws BundleException if the runtime can't load it.
     * @throws MissingToolException if the runtime's native library is not there.
     */
    public fun load(
        bundle: Bundle,
        file: String,
        threads: Int,
    ): Program
}

/** A loaded program. Calls come one at a time, from any thread. */
public interface Program : Closeable {
    /**
     * Runs one signature.
     *
     * @param inputs in the manifest's order and shapes; never kept or changed.
     * @return the outputs in the manifest's order and shapes, free to be kept.
     */
    public fun call(
        signature: String,
        inputs: List<FloatTensor>,
    ): List<FloatTensor>
}

internal fun openProgram(
    bundle: Bundle,
    runtime: Runtime,
    threads: Int,
): Program {
    if (threads < 1) throw InputException("$threads threads make no sense; give 1 or more")
    val programs = bundle.manifest.runtimes
    val entry =
        programs[runtime.name] ?: throw InputException(
            "this bundle has no program for ${runtime.name}, only for ${programs.keys.joinToString(", ")}; " +
                "choose one of these or build it again with --runtime ${runtime.name}",
        )
    return runtime.load(bundle, entry.file, threads)
}
