package pocketstep.learner

import java.nio.file.Path

/**
 * A pack as one device learns it.
 *
 * @property samples labelled with the teacher's first choice, which only balances batches, judges, and counts for the
 * closed form; every fifth is held back.
 * @property features (N, L), targets for the step's features; null where there are none.
 * @property taught (slots,) 1 for the classes that the teacher sees in an image that is not held back.
 */
internal class Lesson(
    val samples: Samples,
    val features: FloatTensor?,
    val taught: FloatTensor,
)

/**
 * What the cloud's teacher says of images that nobody labelled (Zhao et al. 2022, section 4.2): a file of `pocketstep
 * targets`, made for one bundle. A device learns from it in one update and keeps none of its samples.
 */
internal class TargetPack private constructor(
    private val classes: List<String>,
    private val latents: ByteArray,
    private val logits: FloatTensor,
    private val features: FloatTensor?,
) {
    val size: Int get() = logits.shape[0]

    /**
     * The device's classes and, behind them, those that only the teacher knows and sees in an image.
     *
     * @throws InputException if there are not enough free slots.
     */
    fun withClasses(
        known: List<String>,
        slots: Int,
    ): List<String> {
        val trained = (0 until size).filterNot(::isHeldBack)
        val seen = trained.map { argMax(logits.data, it * classes.size, classes.size) }.toSortedSet().map(classes::get)
        val all = known + seen.filterNot(known::contains)
        if (all.size > slots) {
            throw InputException(
                "the target pack brings ${all.size - known.size} new classes, and ${slots - known.size} slots are free; " +
                    "build the bundle again with more spare classes, or make a pack of fewer classes",
            )
        }
        return all
    }

    /**
     * What a device with these classes, in the order of slots, learns from; other classes are left out.
     *
     * @throws InputException for features of another length than the step's.
     */
    fun lesson(
        known: List<String>,
        manifest: Manifest,
    ): Lesson {
        val slots = manifest.task.slots
        val own = classes.map(known::indexOf)
        val soft = FloatArray(size * slots) { NO_LOGIT }
        for (row in 0 until size) {
            own.forEachIndexed { column, slot -> if (slot >= 0) soft[row * slots + slot] = logits.data[row * own.size + column] }
        }
        val columns = own.indices.filter { own[it] >= 0 }
        val labels = IntArray(size) { row -> own[columns.maxBy { logits.data[row * own.size + it] }] }
        val taught = FloatArray(slots)
        for (row in 0 until size) if (!isHeldBack(row)) taught[labels[row]] = 1f
        val all = BooleanArray(size) { true }
        val heldBack = BooleanArray(size, ::isHeldBack)
        val origin = ByteArray(size) { Samples.CLOUD }
        val samples = Samples(manifest.latent.shape, slots, latents, labels, soft, all, heldBack, origin, all)
        return Lesson(samples, featuresFor(manifest), FloatTensor(intArrayOf(slots), taught))
    }

    private fun isHeldBack(row: Int): Boolean = row % Samples.HELD_BACK_EVERY == Samples.HELD_BACK_EVERY - 1

    private fun featuresFor(manifest: Manifest): FloatTensor? {
        val wanted =
            manifest.signatures
                .getValue("step")
                .inputs
                .firstOrNull { it.name == FEATURES }
        if (features == null || wanted == null) return null
        val length = wanted.dimensions[1]
        if (features.rowSize != length) {
            throw InputException(
                "the target pack's features have ${features.rowSize} numbers, the bundle's step takes $length; " +
                    "make the pack again for this bundle",
            )
        }
        return features
    }

    companion object {
        /** The schedule that learns from a pack. */
        const val METHOD = "targets"

        /** A teacher's logit for slots that it does not know: no probability at any sensible temperature. */
        const val NO_LOGIT = -30f
        private const val FORMAT = "pocketstep target pack 1"
        private const val FEATURES = "feature_targets"
        private const val MOST_BYTES = 1L shl 28
        private const val LATENT_RANK = 4

        /**
         * Reads a pack that was made for this bundle.
         *
         * @throws InputException for a missing, damaged or too large file, no pack, or one of another bundle.
         */
        fun read(
            path: Path,
            bundle: Bundle,
        ): TargetPack {
            val where = "The target pack $path"
            val file = Safetensors.read(readRegular(path, MOST_BYTES, where, asInput), where)
            if (file.metadata["format"] != FORMAT) {
                throw InputException("$where is none that this version reads; make it with 'pocketstep targets'.")
            }
            if (file.metadata["bundle"] != bundle.digest) {
                throw InputException(
                    "$where was made for another bundle, whose latents mean something else; " +
                        "make one with 'pocketstep targets ${bundle.path}'.",
                )
            }
            val latents = file.tensors["latents"]
            val logits = file.tensors["logits"]
            if (latents == null || logits == null || !(file.tensors.keys - FEATURES).all { it == "latents" || it == "logits" }) {
                throw InputException("$where lacks latents or logits, or holds something else. Fetch or make it again.")
            }
            val classes = file.metadata["classes"].orEmpty().split("\n")
            check(latents, logits, file.tensors[FEATURES], classes)
            if (latents.shape.drop(1) != bundle.manifest.latent.shape.map(Int::toLong)) {
                throw InputException("$where has latents ${shown(latents.shape.drop(1))}, not this bundle's. Make it again.")
            }
            return TargetPack(classes, latents.toBytes(), logits.toFloats(), file.tensors[FEATURES]?.toFloats())
        }

        /** That the parts go together. */
        private fun check(
            latents: Tensor,
            logits: Tensor,
            features: Tensor?,
            classes: List<String>,
        ) {
            if (latents.dtype != DType.I8 || latents.shape.size != LATENT_RANK || latents.shape[0] == 0L) {
                throw InputException(
                    "a pack's latents are ${latents.dtype.numpy} ${shown(latents.shape)}; give int8 (N, h, w, c)",
                )
            }
            val count = latents.shape[0]
            if (logits.dtype != DType.F32 || logits.shape != listOf(count, classes.size.toLong())) {
                throw InputException(
                    "a pack's logits are ${logits.dtype.numpy} ${shown(logits.shape)}; give float32, a row for each of the " +
                        "$count latents and a column for each of the ${classes.size} classes",
                )
            }
            if (features != null && (features.dtype != DType.F32 || features.shape.size != 2 || features.shape[0] != count)) {
                throw InputException(
                    "a pack's features are ${features.dtype.numpy} ${shown(features.shape)}; give float32 ($count, L)",
                )
            }
            if (classes.toSet().size < classes.size || !classes.all(::isName)) {
                throw InputException("a pack's classes must be names, each once")
            }
        }

        private fun shown(shape: List<Long>): String = shape.joinToString(", ", "(", if (shape.size == 1) ",)" else ")")
    }
}
