package pocketstep.learner

private const val MOST_SAMPLES = 1L shl 25
private const val FLAGS = 2
private const val FINGERPRINT = 1 shl 16

/** The largest snapshot that can be a bundle's: header, tensors, fingerprint, and the flags of very many samples. */
internal fun mostBytes(manifest: Manifest): Long {
    val state = manifest.state.sumOf { spec -> spec.shape.fold(4L) { all, size -> all * size } }
    return minOf(Safetensors.MAX_HEADER + state + FINGERPRINT + FLAGS * MOST_SAMPLES, Int.MAX_VALUE.toLong())
}

/**
 * The state's tensors by name, in the manifest's order, of a snapshot that a learner can go on from: its digest only
 * says that somebody meant it so.
 */
internal fun checkedValues(
    snapshot: Snapshot,
    manifest: Manifest,
    what: String,
    failure: Failure,
): Values {
    val values =
        manifest.state.associate { spec ->
            val tensor = snapshot.tensors[spec.name]
            if (tensor == null || tensor.dtype != DType.F32 || tensor.shape != spec.shape.map(Int::toLong)) {
                throw failure(
                    "$what lacks '${spec.name}' of shape ${spec.shape}, or has it in another shape or type. " +
                        "Restore it from a copy, or begin anew.",
                    null,
                )
            }
            spec.name to tensor.toFloats()
        }
    val slots = manifest.task.slots
    if (!areFacts(snapshot.info, slots)) {
        throw failure("$what does not name its classes, samples and updates rightly. Restore it from a copy.", null)
    }
    val mask = values["class_mask"]
    val known = (snapshot.info["classes"] as List<*>).size
    if (mask == null || !mask.shape.contentEquals(intArrayOf(slots)) || mask.data.any { it != 0f && it != 1f } ||
        mask.data.take(known).all { it == 0f }
    ) {
        throw failure("$what does not know which of its classes are learned. Restore it from a copy.", null)
    }
    return values
}

/** Whether what lies beside a snapshot's tensors is what a learner of so many class slots writes there. */
internal fun areFacts(
    info: Map<String, Any?>,
    slots: Int,
): Boolean {
    val classes = info["classes"] as? List<*> ?: return false
    val keep = if ("keep" in info) info["keep"] as? List<*> ?: listOf(null) else emptyList<Any>()
    val numbers = listOf(info["updates"], if ("before_update" in info) info["before_update"] else 0L) + keep
    return classes.isNotEmpty() && classes.all { it is String && isName(it) } && classes.toSet().size == classes.size &&
        classes.size <= slots && info["chunks"] is List<*> && numbers.all { it is Long && it >= 0 }
}
