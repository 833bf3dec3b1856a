package pocketstep.learner

private val STATISTICS = listOf("count", "total", "second")

/** Signatures that a phase of a schedule calls, by its kind. */
private val NEEDED = mapOf("solve" to listOf("solve", "statistics"), "train" to listOf("step", "score"))

/** Whether a manifest's signatures are those that a learner calls: names, shapes and batches, before anything runs. */
internal fun checkContract(manifest: Manifest) {
    val slots = manifest.task.slots
    val latent = manifest.latent.shape
    val sums = STATISTICS.associateWith<String, List<Int>?> { null }
    val rows = mapOf("latents" to latent, "labels" to listOf(slots), "label_weights" to emptyList())
    val inputs =
        mapOf(
            "encode" to mapOf("images" to manifest.task.input.shape),
            "classify" to mapOf("latents" to latent, "class_mask" to null),
            "statistics" to mapOf("features" to null, "labels" to listOf(slots), "label_weights" to emptyList()) + sums,
            "solve" to sums,
            "step" to rows,
            "score" to rows,
        )
    val outputs =
        mapOf(
            "encode" to mapOf("latents" to latent),
            "classify" to mapOf("logits" to listOf(slots), "probabilities" to listOf(slots), "features" to null),
            "statistics" to sums,
            "step" to mapOf("loss" to null),
        )
    val kinds = manifest.schedules.values.flatMap { it.phases }.map { it.kind }.toSortedSet()
    for (name in listOf("encode", "classify") + kinds.flatMap { NEEDED[it].orEmpty() }) {
        val signature =
            manifest.signatures[name]
                ?: throw BundleException("The manifest has no signature '$name'. Build the bundle again, or fetch it again.")
        check("signatures.$name.inputs", signature.inputs, inputs.getValue(name), signature.batch)
        check("signatures.$name.outputs", signature.outputs, outputs[name].orEmpty(), signature.batch)
    }
}

/** [wanted] shapes are those of one row; null for tensors that have none, or whose shape the state says. */
private fun check(
    where: String,
    tensors: List<TensorSpec>,
    wanted: Map<String, List<Int>?>,
    batch: Int,
) {
    val found = tensors.associate { it.name to it.shape }
    for ((name, row) in wanted) {
        val shape =
            found[name] ?: throw BundleException("The manifest's $where lack '$name'. Build the bundle again, or fetch it again.")
        if (row != null && shape != listOf(batch) + row) {
            throw BundleException(
                "The manifest's $where have '$name' of shape $shape, not ${listOf(batch) + row}. " +
                    "Build the bundle again, or fetch it again.",
            )
        }
    }
    val features = if ("features" in wanted) found["features"] else null
    if (features != null && (features.size != 2 || features[0] != batch)) {
        throw BundleException("The manifest's $where have 'features' that are no batch. Build the bundle again.")
    }
}
