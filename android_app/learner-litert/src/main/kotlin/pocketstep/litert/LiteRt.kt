package pocketstep.litert

import org.tensorflow.lite.Interpreter
import pocketstep.learner.Bundle
import pocketstep.learner.BundleException
import pocketstep.learner.FloatTensor
import pocketstep.learner.MissingToolException
import pocketstep.learner.Program
import pocketstep.learner.Runtime
import pocketstep.learner.Signature
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.FloatBuffer

/** TensorFlow Lite or LiteRT, whichever the app brings: both provide `org.tensorflow.lite.Interpreter`. */
public class LiteRt : Runtime {
    override val name: String get() = "litert"

    override fun load(
        bundle: Bundle,
        file: String,
        threads: Int,
    ): Program {
        try {
            val options = Interpreter.Options().setNumThreads(threads)
            val path = bundle.filePath(file)
            val interpreter = if (path != null) Interpreter(path.toFile(), options) else Interpreter(direct(bundle.read(file)), options)
            return LiteRtProgram(interpreter, bundle.manifest.signatures)
        } catch (reason: UnsatisfiedLinkError) {
            throw MissingToolException(
                "TensorFlow Lite's native library is not in this app; add its dependency for this device's ABI",
                reason,
            )
        } catch (reason: IllegalArgumentException) {
            throw BundleException("LiteRT cannot load $file: ${reason.message}. Build the bundle again", reason)
        } catch (reason: IllegalStateException) {
            throw BundleException("LiteRT cannot load $file: ${reason.message}. Build the bundle again", reason)
        }
    }

    private fun direct(content: ByteArray): ByteBuffer =
        ByteBuffer.allocateDirect(content.size).order(ByteOrder.nativeOrder()).apply {
            put(content)
            rewind()
        }
}

/** Inputs are `args_0`.., outputs `output_0`.. in the converter's naming; buffers are made when first used. */
private class LiteRtProgram(
    private val interpreter: Interpreter,
    private val signatures: Map<String, Signature>,
) : Program {
    private class Buffers(
        val inputs: List<ByteBuffer>,
        val outputs: List<ByteBuffer>,
    )

    private val buffers = HashMap<String, Buffers>()

    override fun call(
        signature: String,
        inputs: List<FloatTensor>,
    ): List<FloatTensor> {
        val described = signatures.getValue(signature)
        val own =
            buffers.getOrPut(signature) {
                Buffers(described.inputs.map { buffer(it.shape) }, described.outputs.map { buffer(it.shape) })
            }
        inputs.forEachIndexed { index, input -> own.inputs[index].floats().put(input.data) }
        own.outputs.forEach(ByteBuffer::rewind)
        try {
            interpreter.runSignature(named("args_", own.inputs), named("output_", own.outputs), signature)
        } catch (reason: IllegalArgumentException) {
            throw BundleException("LiteRT cannot run '$signature': ${reason.message}. Build the bundle again", reason)
        }
        return described.outputs.mapIndexed { index, spec ->
            val data = FloatArray(spec.shape.fold(1) { product, size -> product * size })
            own.outputs[index].floats().get(data)
            FloatTensor(spec.shape.toIntArray(), data)
        }
    }

    override fun close() = interpreter.close()

    private fun buffer(shape: List<Int>): ByteBuffer =
        ByteBuffer.allocateDirect(shape.fold(Float.SIZE_BYTES) { product, size -> product * size }).order(ByteOrder.nativeOrder())

    private fun ByteBuffer.floats(): FloatBuffer {
        rewind()
        return asFloatBuffer()
    }

    private fun named(
        prefix: String,
        all: List<ByteBuffer>,
    ): Map<String, Any> = all.withIndex().associate { (index, buffer) -> "$prefix$index" to buffer }
}
