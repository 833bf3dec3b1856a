package pocketstep.learner

import java.util.zip.CRC32

/**
 * What a bundle's fixed part computes, in a few numbers: by these a later bundle knows whether a state fits it. They lie
 * in every snapshot; the Python package's `fingerprint.py` makes and compares the same.
 */
internal object Fingerprint {
    private const val PREFIX = "fingerprint."
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
            "${PREFIX}latents" to Tensor.of(DType.I8, shown, listOf(shown.size)),
            "${PREFIX}logits" to Tensor.of(FloatTensor(intArrayOf(answers.size), answers)),
        )
    }

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
