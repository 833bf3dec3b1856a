package pocketstep.learner

private const val STATE_FILE = "state.safetensors"
private const val REPLAY_FILE = "replay.safetensors"

/** Version 0: the state as it left the cloud, nothing observed. */
internal fun initialSnapshot(bundle: Bundle): Snapshot {
    val task = bundle.manifest.task
    val flags = Samples.empty(bundle.manifest.latent.shape, task.slots).flags()
    val info = linkedMapOf<String, Any?>("classes" to task.classes, "chunks" to emptyList<Any>(), "updates" to 0L)
    return Snapshot(0, bundle.tensors(STATE_FILE).tensors + flags, info)
}

/** The tensors of the bundle's state as float32 values. */
internal fun shippedState(bundle: Bundle): Map<String, FloatTensor> =
    bundle.tensors(STATE_FILE).tensors.mapValues { it.value.toFloats() }

/** The replay set, each sample with the teacher's cached logits. */
internal fun cloudSamples(bundle: Bundle): Samples {
    val tensors = bundle.tensors(REPLAY_FILE).tensors
    val shape = bundle.manifest.latent.shape
    val slots = bundle.manifest.task.slots

    fun tensor(name: String): Tensor =
        tensors[name] ?: throw BundleException("$REPLAY_FILE lacks ${quoted(name)}; build the bundle again")

    val latents = tensor("latents")
    val soft = tensor("soft_targets")
    val count = latents.shape.firstOrNull()?.toInt() ?: 0
    if (latents.dtype != DType.I8 || latents.shape.drop(1) != shape.map { it.toLong() } ||
        soft.shape != listOf(count.toLong(), slots.toLong())
    ) {
        throw InputException(
            "Samples with latents ${latents.shape.drop(1)} and ${soft.shape.lastOrNull()} slots don't fit the bundle's " +
                "$shape and $slots. Encode the images with this bundle.",
        )
    }
    return Samples(
        shape,
        slots,
        latents.toBytes(),
        tensor("labels").toInts(),
        soft.toFloats().data,
        BooleanArray(count) { true },
        tensor("held_back").toBooleans(),
        ByteArray(count) { Samples.CLOUD },
        BooleanArray(count),
    )
}
