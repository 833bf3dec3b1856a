package pocketstep.learner

import java.io.Closeable

internal typealias Values = Map<String, FloatTensor>

/** Runs a bundle's signatures by the names of the manifest, a batch at a time; the only place that pads. */
internal class Machine(
    private val bundle: Bundle,
    private val runtime: Runtime,
    private val threads: Int,
) : Closeable {
    val manifest: Manifest = bundle.manifest
    val runtimeName: String get() = runtime.name
    private val idle = residentMb().also { checkContract(manifest) }
    private val program = openProgram(bundle, runtime, threads)

    /** Resident memory that this process took since it opened the program, MiB; 0 where the system does not tell. */
    val takenMb: Double get() = maxOf(0.0, residentMb() - idle)

    /** Uses the same program with another number of threads, opened once more where it differs; null for these. */
    fun <T> withThreads(
        wanted: Int?,
        use: (Machine) -> T,
    ): T {
        if (wanted == null || wanted == threads) return use(this)
        return Machine(bundle, runtime, wanted).use { other ->
            other.checkpoint = checkpoint
            use(other)
        }
    }

    /** Called before every call of the program; an exception raised there cancels what is going on. */
    var checkpoint: () -> Unit = {}

    fun signature(name: String): Signature =
        manifest.signatures[name]
            ?: throw BundleException("this bundle's program has no signature '$name'; build it again")

    /** One call. Missing or wrongly shaped inputs mean a bundle that does not fit its own manifest. */
    fun run(
        name: String,
        values: Values,
    ): Values {
        checkpoint()
        val signature = signature(name)
        val inputs =
            signature.inputs.map { spec ->
                val value = values[spec.name]
                if (value == null || !value.shape.contentEquals(spec.dimensions)) {
                    throw BundleException(
                        "signature '$name' wants '${spec.name}' of shape ${spec.shape}, there is " +
                            "${value?.shape?.toList()}; the state does not fit this bundle, or the bundle was built wrongly",
                    )
                }
                value
            }
        val outputs = program.call(name, inputs)
        val fit =
            outputs.size == signature.outputs.size &&
                outputs.zip(signature.outputs).all { (output, spec) -> output.shape.contentEquals(spec.dimensions) }
        if (!fit) {
            throw BundleException("the program's '$name' gives other shapes than the manifest says; build it again")
        }
        return signature.outputs.zip(outputs).associate { (spec, output) -> spec.name to output }
    }

    /** One result of a signature over the rows of one batched input; the last batch is padded with zeros. */
    fun inBatches(
        name: String,
        values: Values,
        input: String,
        rows: Rows,
        result: String,
    ): FloatTensor {
        val signature = signature(name)
        val spec =
            signature.outputs.firstOrNull { it.name == result }
                ?: throw BundleException("the program's '$name' gives no '$result'; build the bundle again")
        val width = spec.shape.drop(1).fold(1) { product, size -> product * size }
        val all = FloatArray(rows.count * width)
        for (start in 0 until rows.count step signature.batch) {
            val end = minOf(start + signature.batch, rows.count)
            val batch = rows.padded(IntArray(end - start) { start + it }, signature.batch)
            val output = run(name, values + (input to batch)).getValue(result)
            output.data.copyInto(all, start * width, 0, (end - start) * width)
        }
        return FloatTensor(intArrayOf(rows.count) + spec.dimensions.drop(1), all)
    }

    override fun close() = program.close()
}

/** N rows of equal shape that become float32 only where a batch needs them. */
internal class Rows(
    val count: Int,
    private val shape: List<Int>,
    private val copy: (row: Int, into: FloatArray, at: Int) -> Unit,
) {
    /** The chosen rows with zero rows behind, (batch, ...). */
    fun padded(
        chosen: IntArray,
        batch: Int,
    ): FloatTensor {
        val width = shape.fold(1) { product, size -> product * size }
        val data = FloatArray(batch * width)
        chosen.forEachIndexed { index, row -> copy(row, data, index * width) }
        return FloatTensor(intArrayOf(batch) + shape, data)
    }

    companion object {
        fun of(values: FloatTensor): Rows {
            val width = values.rowSize
            return Rows(values.shape[0], values.shape.drop(1)) { row, into, at ->
                values.data.copyInto(into, at, row * width, (row + 1) * width)
            }
        }

        /** Latents of the [chosen] samples. */
        fun latents(
            samples: Samples,
            chosen: IntArray = samples.where { true },
        ): Rows =
            Rows(chosen.size, samples.latentShape) { row, into, at ->
                val start = chosen[row] * samples.latentSize
                for (index in 0 until samples.latentSize) into[at + index] = samples.latents[start + index].toFloat()
            }
    }
}
