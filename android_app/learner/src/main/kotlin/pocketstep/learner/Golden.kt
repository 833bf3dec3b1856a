package pocketstep.learner

import kotlin.math.abs

/** One call of the trace: the largest relative error of each output, and seconds. */
public class CallReport internal constructor(
    public val index: Int,
    public val signature: String,
    public val errors: Map<String, Double>,
    public val seconds: Double,
) {
    public val worst: Double get() = errors.values.max()
}

/**
 * Replays the golden trace: what PyTorch's autograd gave, call by call, against what this runtime gives. The state of
 * consecutive steps is the runtime's own, so that errors may add up.
 */
public object Golden {
    /** What a healthy runtime stays under. */
    public const val TOLERANCE: Double = 1e-4

    /** Largest number of values that a trace keeps of one output. */
    private const val SAMPLE = 4096
    private const val FILE = "golden.safetensors"
    private const val NANOS = 1e9

    /**
     * Every call of the trace, in order; it begins with the bundle's state.
     *
     * @throws BundleException if the bundle has no trace, or it does not fit the manifest.
     */
    @JvmStatic
    @JvmOverloads
    public fun replay(
        bundle: Bundle,
        runtime: Runtime,
        threads: Int = 2,
    ): List<CallReport> = Machine(bundle, runtime, threads).use { replay(bundle, it) }

    /** @param values filled with all inputs and outputs as the last calls left them, for who wants to call on. */
    internal fun replay(
        bundle: Bundle,
        machine: Machine,
        values: MutableMap<String, FloatTensor> = LinkedHashMap(),
    ): List<CallReport> {
        val trace = bundle.tensors(FILE)
        val text = trace.metadata["calls"].orEmpty().toByteArray()
        val calls = Json.parse(text, "the golden trace's list of calls", asBundle) as? List<*> ?: emptyList<Any>()
        if (calls.isEmpty()) throw BundleException("the golden trace lists no calls; build the bundle again")
        values += shippedState(bundle)
        return calls.mapIndexed { index, name ->
            if (name !in bundle.manifest.signatures) {
                throw BundleException("the golden trace calls '$name', which the manifest does not know")
            }
            call(index, name as String, trace.tensors, values, machine)
        }
    }

    private fun call(
        index: Int,
        name: String,
        trace: Map<String, Tensor>,
        values: MutableMap<String, FloatTensor>,
        machine: Machine,
    ): CallReport {
        for (spec in machine.signature(name).inputs) {
            trace["$index.in.${spec.name}"]?.let { values[spec.name] = it.toFloats() }
        }
        val start = System.nanoTime()
        val outputs = machine.run(name, values)
        val seconds = (System.nanoTime() - start) / NANOS
        val errors = LinkedHashMap<String, Double>()
        for ((output, value) in outputs) {
            val expected = trace["$index.out.$output"] ?: continue
            errors[output] = relativeError(sample(value.data), expected.toFloats().data, output, index)
        }
        if (errors.isEmpty()) throw BundleException("the golden trace expects nothing of call $index ($name)")
        values.putAll(outputs)
        return CallReport(index, name, errors, seconds)
    }

    /** What a trace keeps of an output: all of it, or evenly spaced values of one larger than [SAMPLE]. */
    private fun sample(values: FloatArray): FloatArray {
        val step = (values.size + SAMPLE - 1) / SAMPLE
        return if (step <= 1) values else FloatArray((values.size + step - 1) / step) { values[it * step] }
    }

    /** max |value - expected| / max |expected|; infinite where a value is not finite. */
    private fun relativeError(
        values: FloatArray,
        expected: FloatArray,
        name: String,
        index: Int,
    ): Double {
        if (values.size != expected.size) {
            throw BundleException("the golden trace's '$name' of call $index has another shape; build the bundle again")
        }
        if (!values.all { it.isFinite() }) return Double.POSITIVE_INFINITY
        val scale = expected.maxOfOrNull { abs(it.toDouble()) } ?: 0.0
        val difference = values.indices.maxOfOrNull { abs(values[it].toDouble() - expected[it].toDouble()) } ?: 0.0
        return if (scale > 0) difference / scale else difference
    }
}
