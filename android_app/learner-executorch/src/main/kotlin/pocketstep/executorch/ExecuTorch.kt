package pocketstep.executorch

import org.pytorch.executorch.EValue
import org.pytorch.executorch.ExecutorchRuntimeException
import org.pytorch.executorch.Module
import org.pytorch.executorch.Tensor
import pocketstep.learner.Bundle
import pocketstep.learner.BundleException
import pocketstep.learner.FloatTensor
import pocketstep.learner.MissingToolException
import pocketstep.learner.Program
import pocketstep.learner.Runtime
import java.io.File
import java.io.InputStream

/** ExecuTorch with XNNPACK, through `org.pytorch.executorch.Module`. */
public class ExecuTorch : Runtime {
    override val name: String get() = "executorch"

    override fun load(
        bundle: Bundle,
        file: String,
        threads: Int,
    ): Program {
        val path = bundle.filePath(file)?.toFile()
        checkBeginning(path?.inputStream() ?: bundle.read(file).inputStream(), file)
        val copy = if (path == null) extracted(bundle, file) else null
        try {
            val module = Module.load((path ?: copy)!!.path, Module.LOAD_MODE_MMAP, threads)
            if (module.methods.isEmpty()) throw BundleException("ExecuTorch finds no method in $file. Build the bundle again")
            return ExecuTorchProgram(module, copy)
        } catch (reason: LinkageError) {
            copy?.delete()
            throw MissingToolException("ExecuTorch's native library is not in this app; add its dependency for this device's ABI", reason)
        } catch (reason: RuntimeException) {
            copy?.delete()
            throw reason as? BundleException
                ?: BundleException("ExecuTorch cannot load $file: ${reason.message}. Build the bundle again", reason)
        }
    }

    /** ExecuTorch ends the whole process on a file that is no program, so its mark is looked for first. */
    private fun checkBeginning(
        content: InputStream,
        file: String,
    ) {
        val beginning = ByteArray(MARK_END)
        val count = content.use { it.read(beginning) }
        if (count != MARK_END || String(beginning, MARK_START, 2, Charsets.US_ASCII) != "ET") {
            throw BundleException("ExecuTorch cannot load $file: it is no program. Build the bundle again")
        }
    }

    /** A module is loaded from a file only, so that a program inside a zip gets one for as long as it is used. */
    private fun extracted(
        bundle: Bundle,
        file: String,
    ): File = File.createTempFile("pocketstep", ".pte").apply { writeBytes(bundle.read(file)) }

    private companion object {
        const val MARK_START = 4
        const val MARK_END = 8
    }
}

/** Methods take and give tensors by position. */
private class ExecuTorchProgram(
    private val module: Module,
    private val copy: File?,
) : Program {
    override fun call(
        signature: String,
        inputs: List<FloatTensor>,
    ): List<FloatTensor> {
        val values = Array(inputs.size) { EValue.from(Tensor.fromBlob(inputs[it].data, longs(inputs[it].shape))) }
        try {
            return module.execute(signature, *values).map { value ->
                val tensor = value.toTensor()
                FloatTensor(ints(tensor.shape()), tensor.dataAsFloatArray)
            }
        } catch (reason: ExecutorchRuntimeException) {
            throw BundleException("ExecuTorch cannot run '$signature': ${reason.message}. Build the bundle again", reason)
        }
    }

    override fun close() {
        module.close()
        copy?.delete()
    }

    private fun longs(shape: IntArray) = LongArray(shape.size) { shape[it].toLong() }

    private fun ints(shape: LongArray) = IntArray(shape.size) { shape[it].toInt() }
}
