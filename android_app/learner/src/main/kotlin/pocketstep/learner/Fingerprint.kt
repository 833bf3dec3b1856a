package pocketstep.learner

import java.util.zip.CRC32
import kotlin.math.abs

/**
 * What a bundle's fixed part computes, in a few numbers: by these a later bundle knows whether a state fits it. They lie
 * in every snapshot; the Python package's `fingerprint.py` makes and compares the same.
 */
internal object Fingerprint {
    const val PREFIX = "fingerprint."
    private const val LATENTS = "${PREFIX}latents"
    private const val LOGITS = "${PREFIX}logits"
    private const val SAME_CODES = 0.99
    private const val TOLERANCE = 1e-3f
    private const val SMALLEST = 1e-6f
    private const val IMAGES = 2
    private const val NUMBERS = 4096
    private const val SPREAD = 0.17320508f // of made-up weights: a standard deviation of 0.05

    /** `fingerprint.latents`, int8, and `fingerprint.logits`, float32, at most 4096 numbers each. */
    fun of(machine: Machine): Map<String, Tensor> {
        val manifest = machine.manifest
        val (low, high) = manifest.task.input.range
        val images = madeUp(intArrayOf(IMAGES) + manifest.task.input.shape, 0L) { it * (high - low).toFloat() + low.toFloat() }
        val latents = codes(machine.inBatches("encode", emptyMap(), "images", Rows.of(images), "latents"))
        val rows =
            Rows(IMAGES, manifest.latent.shape) { row, into, at ->
                val size = latents.size / IMAGES
                for (index in 0 until size) into[at + index] = latents[row * size + index].toFloat()
            }
        val state =
            machine.signature("classify").inputs.filter { it.source == "state" }.associate { it.name to stateLike(it) }
        val logits = machine.inBatches("classify", state, "latents", rows, "logits").data
        val shown = thinned(latents.size).let { chosen -> ByteArray(chosen.size) { latents[chosen[it]] } }
        val answers = thinned(logits.size).let { chosen -> FloatArray(chosen.size) { logits[chosen[it]] } }
        return mapOf(
            LATENTS to Tensor.of(DType.I8, shown, listOf(shown.size)),
            LOGITS to Tensor.of(FloatTensor(intArrayOf(answers.size), answers)),
        )
    }

    /** Whether latents mean the same to both; int8 codes may differ by rounding. */
    fun sameLatents(
        one: Map<String, Tensor>,
        other: Map<String, Tensor>,
    ): Boolean {
        val (a, b) = both(LATENTS, one, other)?.map { it.toFloats().data } ?: return false
        val differences = FloatArray(a.size) { abs(a[it] - b[it]) }
        return differences.all { it <= 1f } && differences.count { it == 0f } >= SAME_CODES * a.size
    }

    /** Whether one trained state means the same to both. */
    fun sameAnswers(
        one: Map<String, Tensor>,
        other: Map<String, Tensor>,
    ): Boolean {
        val (a, b) = both(LOGITS, one, other)?.map { it.toFloats().data } ?: return false
        val limit = TOLERANCE * maxOf(a.maxOf(::abs), SMALLEST)
        return a.indices.all { abs(a[it] - b[it]) <= limit }
    }

    private fun both(
        name: String,
        one: Map<String, Tensor>,
        other: Map<String, Tensor>,
    ): List<Tensor>? = listOfNotNull(one[name], other[name]).takeIf { (it.size == 2) && it[0].shape == it[1].shape && it[0].size > 0 }

    /** All classes, half of each head, and small random weights, the same for the same name. */
    private fun stateLike(spec: TensorSpec): FloatTensor =
        when (spec.name) {
            "class_mask" -> {
                FloatTensor.filled(spec.dimensions, 1f)
            }

            "blend" -> {
                FloatTensor.filled(spec.dimensions, 0.5f)
            }

            else -> {
                val seed = CRC32().apply { update(spec.name.toByteArray()) }.value
                madeUp(spec.dimensions, seed) { (it - 0.5f) * SPREAD }
            }
        }

    private fun madeUp(
        shape: IntArray,
        seed: Long,
        value: (Float) -> Float,
    ): FloatTensor {
        val random = SplitMix(seed)
        return FloatTensor.zeros(shape).apply { for (index in data.indices) data[index] = value(random.uniform()) }
    }

    private fun thinned(size: Int): IntArray {
        val step = maxOf(1, (size + NUMBERS - 1) / NUMBERS)
        return IntArray((size + step - 1) / step) { it * step }
    }
}

/** Latents as they are stored. */
internal fun codes(latents: FloatTensor): ByteArray =
    ByteArray(latents.data.size) { Math.rint(latents.data[it].toDouble()).coerceIn(-128.0, 127.0).toInt().toByte() }
