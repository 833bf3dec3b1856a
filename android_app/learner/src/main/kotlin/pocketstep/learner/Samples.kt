package pocketstep.learner

import java.nio.ByteBuffer
import java.nio.FloatBuffer

/**
 * Samples that an update learns from, as parallel arrays of one length.
 *
 * @property latents int8, one latent after the other.
 * @property labels class slots.
 * @property softTargets one value a slot and sample; zero where [hasSoft] is false.
 * @property heldBack kept for the check and never trained on.
 * @property origin [CLOUD] or [DEVICE].
 * @property pending not yet part of an accepted update.
 */
internal class Samples(
    val latentShape: List<Int>,
    val slots: Int,
    val latents: ByteArray,
    val labels: IntArray,
    val softTargets: FloatArray,
    val hasSoft: BooleanArray,
    val heldBack: BooleanArray,
    val origin: ByteArray,
    val pending: BooleanArray,
) {
    val size: Int get() = labels.size
    val latentSize: Int = latentShape.fold(1) { product, it -> product * it }

    init {
        val sizes = listOf(hasSoft.size, heldBack.size, origin.size, pending.size)
        if (sizes.any { it != size } || latents.size != size * latentSize || softTargets.size != size * slots) {
            throw InputException("Samples' parts are not as long as their labels. Encode the images with this bundle.")
        }
        labels.firstOrNull { it !in 0 until slots }?.let {
            throw InputException("A sample's label is outside 0 to ${slots - 1}. Add its class first.")
        }
        if (origin.any { it != CLOUD && it != DEVICE }) {
            throw InputException(
                "A sample's origin is neither $CLOUD (cloud) nor $DEVICE (device). Set it to one.",
            )
        }
        val wrong = softTargets.indices.any { !softTargets[it].isFinite() || (!hasSoft[it / slots] && softTargets[it] != 0f) }
        if (wrong) {
            throw InputException(
                "A sample's soft targets hold NaN or infinity, or are not zero though has_soft is false. " +
                    "Leave them out for that sample.",
            )
        }
    }

    /** Indices of the samples that a condition holds for. */
    fun where(condition: (Int) -> Boolean): IntArray = (0 until size).filter(condition).toIntArray()

    fun select(rows: IntArray): Samples =
        Samples(
            latentShape,
            slots,
            ByteArray(rows.size * latentSize).also { rows.copyRows(latents, it, latentSize) },
            IntArray(rows.size) { labels[rows[it]] },
            FloatArray(rows.size * slots).also { rows.copyRows(softTargets, it, slots) },
            BooleanArray(rows.size) { hasSoft[rows[it]] },
            BooleanArray(rows.size) { heldBack[rows[it]] },
            ByteArray(rows.size) { origin[rows[it]] },
            BooleanArray(rows.size) { pending[rows[it]] },
        )

    operator fun plus(other: Samples): Samples = join(latentShape, slots, listOf(this, other))

    /**
     * Which of [codes], latents one after the other, the class does not hold yet: of equal ones the first. A duplicate
     * teaches nothing, and one that is trained on while its twin is held back deceives the check.
     */
    fun unseen(
        codes: ByteArray,
        label: Int,
    ): IntArray {
        val known = where { labels[it] == label }.mapTo(HashSet()) { latent(it) }
        return (0 until codes.size / latentSize).filter { known.add(latent(it, codes)) }.toIntArray()
    }

    /** One latent of these samples, or of other ones. */
    fun latent(
        row: Int,
        of: ByteArray = latents,
    ): ByteBuffer = ByteBuffer.wrap(of, row * latentSize, latentSize).slice()

    /** The same samples, none of them waiting for its first update. */
    fun settled(): Samples = Samples(latentShape, slots, latents, labels, softTargets, hasSoft, heldBack, origin, BooleanArray(size))

    /** What a snapshot keeps of the samples, as its tensors: what an update changes about them. */
    fun flags(): Map<String, Tensor> = mapOf(PENDING to Tensor.of(pending), HELD_BACK to Tensor.of(heldBack))

    private fun IntArray.copyRows(
        from: Any,
        to: Any,
        width: Int,
    ) = forEachIndexed { index, row -> System.arraycopy(from, row * width, to, index * width, width) }

    companion object {
        const val CLOUD: Byte = 0
        const val DEVICE: Byte = 1
        const val PENDING = "samples.pending"
        const val HELD_BACK = "samples.held_back"
        val FLAGS = setOf(PENDING, HELD_BACK)

        /** Every fifth observed image judges updates instead of training them. */
        const val HELD_BACK_EVERY = 5

        /** All parts one after the other. */
        fun join(
            latentShape: List<Int>,
            slots: Int,
            parts: List<Samples>,
        ): Samples {
            fun booleans(of: (Samples) -> BooleanArray) = parts.flatMap { of(it).asList() }.toBooleanArray()
            val latents = ByteBuffer.allocate(parts.sumOf { it.latents.size }).apply { parts.forEach { put(it.latents) } }
            val soft = FloatBuffer.allocate(parts.sumOf { it.softTargets.size }).apply { parts.forEach { put(it.softTargets) } }
            return Samples(
                latentShape,
                slots,
                latents.array(),
                parts.flatMap { it.labels.asList() }.toIntArray(),
                soft.array(),
                booleans { it.hasSoft },
                booleans { it.heldBack },
                parts.flatMap { it.origin.asList() }.toByteArray(),
                booleans { it.pending },
            )
        }

        /** What a device observed of one class, which has [seen] pending samples already: every fifth is held back. */
        fun observed(
            latentShape: List<Int>,
            slots: Int,
            codes: ByteArray,
            label: Int,
            seen: Int,
        ): Samples {
            val count = codes.size / latentShape.fold(1) { product, it -> product * it }
            return Samples(
                latentShape,
                slots,
                codes,
                IntArray(count) { label },
                FloatArray(count * slots),
                BooleanArray(count),
                BooleanArray(count) { (seen + it) % HELD_BACK_EVERY == HELD_BACK_EVERY - 1 },
                ByteArray(count) { DEVICE },
                BooleanArray(count) { true },
            )
        }

        fun empty(
            latentShape: List<Int>,
            slots: Int,
        ): Samples {
            val none = BooleanArray(0)
            return Samples(latentShape, slots, ByteArray(0), IntArray(0), FloatArray(0), none, none, ByteArray(0), none)
        }
    }
}
