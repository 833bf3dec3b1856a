package pocketstep.testing

import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.file.Files
import java.nio.file.Path

/** An array as Python's tests write and read it: one line `dtype size size …`, then the bytes, little-endian. */
public class Raw(
    public val shape: List<Int>,
    public val bytes: ByteArray,
) {
    public val size: Int get() = shape.fold(1) { product, it -> product * it }

    /** The float32 values of each row of the first dimension. */
    public fun rows(): List<FloatArray> {
        val values = ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer()
        return List(shape[0]) { FloatArray(size / shape[0]).also(values::get) }
    }

    public companion object {
        public fun read(path: Path): Raw {
            val content = Files.readAllBytes(path)
            val end = content.indexOf('\n'.code.toByte())
            val shape = String(content, 0, end).split(" ").drop(1).map { it.toInt() }
            return Raw(shape, content.copyOfRange(end + 1, content.size))
        }

        public fun writeFloats(
            path: Path,
            rows: List<FloatArray>,
        ) {
            val data = ByteBuffer.allocate(rows.size * rows[0].size * Float.SIZE_BYTES).order(ByteOrder.LITTLE_ENDIAN)
            rows.forEach { row -> row.forEach(data::putFloat) }
            Files.write(path, "float32 ${rows.size} ${rows[0].size}\n".toByteArray() + data.array())
        }
    }
}
