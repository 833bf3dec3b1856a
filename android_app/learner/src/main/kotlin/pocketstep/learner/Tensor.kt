package pocketstep.learner

import java.nio.ByteBuffer
import java.nio.ByteOrder

/** Element types of the safetensors format that the formats use; [tag] there, [numpy] in digests. */
internal enum class DType(
    val tag: String,
    val numpy: String,
    val bytes: Int,
) {
    F64("F64", "float64", 8),
    F32("F32", "float32", 4),
    F16("F16", "float16", 2),
    I64("I64", "int64", 8),
    I32("I32", "int32", 4),
    I8("I8", "int8", 1),
    U8("U8", "uint8", 1),
    BOOL("BOOL", "bool", 1),
}

/** A tensor as files keep it: little-endian bytes in C order, never changed. */
internal class Tensor(
    val dtype: DType,
    val shape: List<Long>,
    bytes: ByteBuffer,
) {
    private val content: ByteBuffer = bytes.asReadOnlyBuffer()

    /** The bytes, from the beginning, little-endian. */
    val bytes: ByteBuffer get() = content.duplicate().order(ByteOrder.LITTLE_ENDIAN)

    val size: Int get() = content.capacity() / dtype.bytes

    fun toFloats(): FloatTensor {
        val values = FloatArray(size)
        when (dtype) {
            DType.F32 -> bytes.asFloatBuffer().get(values)
            DType.F64 -> bytes.asDoubleBuffer().let { b -> values.indices.forEach { values[it] = b.get(it).toFloat() } }
            DType.I64 -> bytes.asLongBuffer().let { b -> values.indices.forEach { values[it] = b.get(it).toFloat() } }
            DType.I32 -> bytes.asIntBuffer().let { b -> values.indices.forEach { values[it] = b.get(it).toFloat() } }
            DType.U8, DType.BOOL -> bytes.let { b -> values.indices.forEach { values[it] = (b.get(it).toInt() and BYTE).toFloat() } }
            DType.I8 -> bytes.let { b -> values.indices.forEach { values[it] = b.get(it).toFloat() } }
            DType.F16 -> bytes.asShortBuffer().let { b -> values.indices.forEach { values[it] = halfToFloat(b.get(it)) } }
        }
        return FloatTensor(IntArray(shape.size) { shape[it].toInt() }, values)
    }

    fun toInts(): IntArray {
        val values = IntArray(size)
        when (dtype) {
            DType.I64 -> bytes.asLongBuffer().let { b -> values.indices.forEach { values[it] = clamped(b.get(it)) } }
            else -> toFloats().data.forEachIndexed { index, value -> values[index] = value.toInt() }
        }
        return values
    }

    fun toBytes(): ByteArray = ByteArray(content.capacity()).also { bytes.get(it) }

    fun toBooleans(): BooleanArray = toFloats().data.let { values -> BooleanArray(size) { values[it] != 0f } }

    private fun clamped(value: Long): Int = value.coerceIn(Int.MIN_VALUE.toLong(), Int.MAX_VALUE.toLong()).toInt()

    companion object {
        fun of(value: FloatTensor): Tensor =
            Tensor(DType.F32, value.shape.map { it.toLong() }, little(value.data.size * 4) { asFloatBuffer().put(value.data) })

        fun of(values: BooleanArray): Tensor =
            Tensor(DType.BOOL, listOf(values.size.toLong()), little(values.size) { values.forEach { put(if (it) 1 else 0) } })

        fun of(
            dtype: DType,
            values: ByteArray,
            shape: List<Int>,
        ): Tensor = Tensor(dtype, shape.map { it.toLong() }, ByteBuffer.wrap(values))

        fun ofLongs(values: IntArray): Tensor =
            Tensor(DType.I64, listOf(values.size.toLong()), little(values.size * 8) { values.forEach { putLong(it.toLong()) } })

        private fun little(
            size: Int,
            fill: ByteBuffer.() -> Unit,
        ): ByteBuffer {
            val buffer = ByteBuffer.allocate(size).order(ByteOrder.LITTLE_ENDIAN)
            buffer.fill()
            buffer.rewind()
            return buffer
        }

        private const val BYTE = 0xFF
    }
}

/** Float32 values in C order: what a program takes and gives. The values of a state are never changed in place. */
public class FloatTensor(
    public val shape: IntArray,
    public val data: FloatArray,
) {
    init {
        require(data.size == shape.fold(1) { product, size -> product * size }) { "values don't fit the shape" }
    }

    /** Values in one row of the first dimension. */
    internal val rowSize: Int get() = if (shape[0] == 0) 0 else data.size / shape[0]

    internal fun isFinite(): Boolean = data.all { it.isFinite() }

    internal companion object {
        fun of(value: Number): FloatTensor = FloatTensor(intArrayOf(1), floatArrayOf(value.toFloat()))

        fun zeros(shape: IntArray): FloatTensor = filled(shape, 0f)

        fun filled(
            shape: IntArray,
            value: Float,
        ): FloatTensor = FloatTensor(shape, FloatArray(shape.fold(1) { product, size -> product * size }) { value })
    }
}

internal fun halfToFloat(half: Short): Float {
    val bits = half.toInt() and 0xFFFF
    val sign = (bits ushr 15) shl 31
    val exponent = (bits ushr 10) and 0x1F
    val fraction = bits and 0x3FF
    return when (exponent) {
        0 -> Math.scalb(fraction.toFloat(), -24) * if (sign == 0) 1f else -1f
        0x1F -> Float.fromBits(sign or 0x7F800000 or (fraction shl 13))
        else -> Float.fromBits(sign or ((exponent + 112) shl 23) or (fraction shl 13))
    }
}
