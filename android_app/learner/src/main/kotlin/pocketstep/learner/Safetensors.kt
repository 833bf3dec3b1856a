package pocketstep.learner

import java.io.ByteArrayOutputStream
import java.math.BigInteger
import java.nio.ByteBuffer
import java.nio.ByteOrder

/** The content of a safetensors file. */
internal class TensorFile(
    val tensors: Map<String, Tensor>,
    val metadata: Map<String, String>,
)

/**
 * Strict reading and writing of the safetensors format: nothing is believed before it was compared with the file's
 * real size, and equal content gives equal bytes, the same as the Python package's.
 */
internal object Safetensors {
    /** Longest header that is read or written, in bytes. */
    const val MAX_HEADER = 4 * 1024 * 1024
    private const val METADATA = "__metadata__"
    private const val MAX_NAME = 512
    private const val MAX_RANK = 32
    private const val LENGTH_BYTES = 8
    private val MAX_EMPTY = BigInteger.ONE.shiftLeft(31)
    private val TYPES = DType.entries.associateBy { it.tag }

    fun read(
        data: ByteArray,
        what: String,
        failure: Failure = asInput,
    ): TensorFile = Reader(what, failure).file(data)

    fun write(
        tensors: Map<String, Tensor>,
        metadata: Map<String, String>,
    ): ByteArray {
        val header = LinkedHashMap<String, Any?>()
        if (metadata.isNotEmpty()) header[METADATA] = metadata.toSortedMap(codePointOrder)
        val order = tensors.keys.sortedWith(compareBy<String> { -tensors.getValue(it).dtype.bytes }.then(codePointOrder))
        var end = 0L
        for (name in order) {
            val tensor = writable(name, tensors.getValue(name))
            val begin = end
            end += tensor.bytes.capacity()
            header[name] =
                linkedMapOf("dtype" to tensor.dtype.tag, "shape" to tensor.shape, "data_offsets" to listOf(begin, end))
        }
        val text = headerBytes(header)
        val out = ByteArrayOutputStream(LENGTH_BYTES + text.size + end.toInt())
        out.write(
            ByteBuffer
                .allocate(LENGTH_BYTES)
                .order(ByteOrder.LITTLE_ENDIAN)
                .putLong(text.size.toLong())
                .array(),
        )
        out.write(text)
        order.forEach { out.write(tensors.getValue(it).toBytes()) }
        return out.toByteArray()
    }

    private fun writable(
        name: String,
        tensor: Tensor,
    ): Tensor {
        if (name == METADATA || name.points > MAX_NAME) {
            throw InputException(
                "A tensor can't be named ${quoted(name.first(40))}: it is reserved or too long. Choose another name.",
            )
        }
        if (!isFinite(tensor)) {
            throw InputException(
                "Tensor ${quoted(name)} holds NaN or infinity: training diverged. Try a lower learning rate.",
            )
        }
        return tensor
    }

    private fun headerBytes(header: Map<String, Any?>): ByteArray {
        val text =
            encodeUtf8(Json.compact(header))
                ?: throw InputException("A tensor's name or metadata is not valid Unicode; rename it.")
        val padding = (LENGTH_BYTES - text.size % LENGTH_BYTES) % LENGTH_BYTES
        val padded = text + ByteArray(padding) { ' '.code.toByte() }
        if (padded.size > MAX_HEADER) {
            throw InputException(
                "The header has ${padded.size} bytes, more than $MAX_HEADER; shorten names and metadata.",
            )
        }
        return padded
    }

    private fun isFinite(tensor: Tensor): Boolean =
        when (tensor.dtype) {
            DType.F64 -> tensor.bytes.asDoubleBuffer().let { b -> (0 until b.capacity()).all { b.get(it).isFinite() } }
            DType.F32, DType.F16 -> tensor.toFloats().isFinite()
            else -> true
        }

    private class Entry(
        val name: String,
        val dtype: DType,
        val shape: List<Long>,
        val begin: BigInteger,
        val end: BigInteger,
    )

    /** The checks of one file, and how its errors begin. */
    private class Reader(
        private val what: String,
        private val failure: Failure,
    ) {
        fun file(data: ByteArray): TensorFile {
            if (data.size < LENGTH_BYTES) {
                fail("it has ${data.size} bytes, fewer than the 8 of a safetensors file's beginning")
            }
            val rest = data.size - LENGTH_BYTES
            val length = ByteBuffer.wrap(data).order(ByteOrder.LITTLE_ENDIAN).getLong(0)
            if (length < 0 || length > MAX_HEADER || length > rest) {
                val claimed = java.lang.Long.toUnsignedString(length)
                fail("its header claims $claimed bytes, but $rest follow, and $MAX_HEADER may be")
            }
            if (rest == 0 || data[LENGTH_BYTES] != '{'.code.toByte()) {
                fail("its header does not begin with '{'")
            }
            val start = LENGTH_BYTES + length.toInt()
            val parsed = Json.parse(data.copyOfRange(LENGTH_BYTES, start), "the header of $what", failure)
            val header = LinkedHashMap(parsed as Map<*, *>)
            val metadata = metadata(if (header.containsKey(METADATA)) header.remove(METADATA) else emptyMap<String, String>())
            val entries = header.map { (name, value) -> entry(name as String, value) }
            val ordered = entries.sortedWith(compareBy({ it.begin }, { it.end }))
            var end = BigInteger.ZERO
            for (entry in ordered) {
                if (entry.begin != end) {
                    fail("the bytes of tensor ${quoted(entry.name)} leave a gap or overlap another tensor's")
                }
                end = entry.end
            }
            val body = data.size - start
            if (end != BigInteger.valueOf(body.toLong())) fail("the tensors take $end bytes, but $body follow the header")
            return TensorFile(ordered.associate { it.name to tensor(it, data, start) }, metadata)
        }

        private fun metadata(value: Any?): Map<String, String> {
            if (value !is Map<*, *> || !value.values.all { it is String }) fail("its metadata is not an object of texts")
            return value.entries.associate { (key, text) -> key as String to text as String }
        }

        private fun entry(
            name: String,
            value: Any?,
        ): Entry {
            if (name.points > MAX_NAME) fail("a tensor's name is longer than $MAX_NAME characters")
            if (value !is Map<*, *> || value.keys != setOf("dtype", "shape", "data_offsets")) {
                fail("tensor ${quoted(name)} is not described by dtype, shape and data_offsets")
            }
            val dtype =
                TYPES[value["dtype"]] ?: fail("tensor ${quoted(name)} has a type other than ${TYPES.keys.joinToString(", ")}")
            val shape = sizes(value["shape"])
            val offsets = sizes(value["data_offsets"])
            if (shape == null || shape.size > MAX_RANK || offsets == null || offsets.size != 2) {
                fail("tensor ${quoted(name)} has a shape or data_offsets that are not sizes")
            }
            val taken = offsets[1] - offsets[0]
            val width = BigInteger.valueOf(dtype.bytes.toLong())
            if (product(shape) * width != taken) {
                fail("tensor ${quoted(name)} has $taken bytes, which its shape and type contradict")
            }
            if (product(shape.map { it.max(BigInteger.ONE) }) * width > taken.max(MAX_EMPTY)) {
                fail("tensor ${quoted(name)} is empty, but one of its sizes is too large")
            }
            return Entry(name, dtype, shape.map { it.toLong() }, offsets[0], offsets[1])
        }

        private fun tensor(
            entry: Entry,
            data: ByteArray,
            start: Int,
        ): Tensor {
            val begin = entry.begin.toInt() // it lies inside the file, as all offsets do by now
            val size = entry.end.toInt() - begin
            val bytes = ByteBuffer.wrap(data, start + begin, size).slice()
            val tensor = Tensor(entry.dtype, entry.shape, bytes)
            if (entry.dtype == DType.BOOL && (0 until size).any { bytes.get(it).toInt() !in 0..1 }) {
                fail("tensor ${quoted(entry.name)} is BOOL but has bytes other than 0 and 1")
            }
            if (!isFinite(tensor)) fail("tensor ${quoted(entry.name)} holds NaN or infinity")
            return tensor
        }

        private fun sizes(value: Any?): List<BigInteger>? {
            if (value !is List<*>) return null
            val sizes =
                value.map {
                    when (it) {
                        is Long -> BigInteger.valueOf(it)
                        is BigInteger -> it
                        else -> return null
                    }
                }
            return sizes.takeIf { all -> all.all { it.signum() >= 0 } }
        }

        private fun product(sizes: List<BigInteger>): BigInteger = sizes.fold(BigInteger.ONE) { all, size -> all * size }

        private fun fail(problem: String): Nothing =
            throw failure("$what can't be read: $problem. It was cut or damaged; fetch or make it again.", null)
    }
}
