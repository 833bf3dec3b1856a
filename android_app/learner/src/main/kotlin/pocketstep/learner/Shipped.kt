package pocketstep.learner

private const val STATE_FILE = "state.safetensors"
private const val REPLAY_FILE = "replay.safetensors"
private val REPLAY_TYPES =
    mapOf("latents" to DType.I8, "labels" to DType.I64, "soft_targets" to DType.F32, "held_back" to DType.BOOL)

/** Version 0: the state as it left the cloud, nothing observed. */
internal fun initialSnapshot(bundle: Bundle): Snapshot {
    val task = bundle.manifest.task
    val tensors = bundle.tensors(STATE_FILE).tensors
    val wanted = bundle.manifest.state.associate { it.name to (DType.F32 to it.shape.map(Int::toLong)) }
    val found = tensors.mapValues { it.value.dtype to it.value.shape }
    if (found != wanted) {
        val wrong = (found.keys + wanted.keys).filter { found[it] != wanted[it] }.minWith(codePointOrder)
        throw BundleException(
            "$STATE_FILE of ${bundle.path} does not hold the manifest's state: '${wrong.first(200)}' is missing, too many, " +
                "or of another shape or type. Build the bundle again, or fetch it again.",
        )
    }
    val info =
        linkedMapOf<String, Any?>(
            "classes" to task.classes,
            "brought" to task.classes.size.toLong(),
            "chunks" to emptyList<Any>(),
            "updates" to 0L,
        )
    val flags = Samples.empty(bundle.manifest.latent.shape, task.slots).flags()
    val snapshot = Snapshot(0, tensors + flags, info, bundle.digest)
    checkedValues(snapshot, bundle.manifest, "$STATE_FILE of ${bundle.path}", asBundle)
    return snapshot
}

/** The tensors of the bundle's state as float32 values. */
internal fun shippedState(bundle: Bundle): Values = bundle.tensors(STATE_FILE).tensors.mapValues { it.value.toFloats() }

/** The replay set, each sample with the teacher's cached logits. */
internal fun cloudSamples(bundle: Bundle): Samples {
    val tensors = bundle.tensors(REPLAY_FILE).tensors
    val where = "$REPLAY_FILE of ${bundle.path}"
    for ((name, dtype) in REPLAY_TYPES) {
        val tensor = tensors[name] ?: throw BundleException("$where lacks '$name'. Build the bundle again, or fetch it again.")
        if (tensor.dtype != dtype) {
            throw BundleException("'$name' in $where is ${tensor.dtype.numpy}, not ${dtype.numpy}. Build it again.")
        }
    }
    val manifest = bundle.manifest
    val count = tensors.getValue("labels").size
    val shapes =
        mapOf(
            "latents" to listOf(count) + manifest.latent.shape,
            "labels" to listOf(count),
            "soft_targets" to listOf(count, manifest.task.slots),
            "held_back" to listOf(count),
        )
    try {
        shapes.forEach { (name, shape) ->
            val found = tensors.getValue(name).shape
            if (found != shape.map(Int::toLong)) throw InputException("Samples' $name have shape $found, not $shape.")
        }
        return Samples(
            manifest.latent.shape,
            manifest.task.slots,
            tensors.getValue("latents").toBytes(),
            tensors.getValue("labels").toInts(),
            tensors.getValue("soft_targets").toFloats().data,
            BooleanArray(count) { true },
            tensors.getValue("held_back").toBooleans(),
            ByteArray(count) { Samples.CLOUD },
            BooleanArray(count),
        )
    } catch (reason: InputException) {
        throw BundleException("$where does not fit the manifest: ${reason.message} Build the bundle again.", reason)
    }
}
