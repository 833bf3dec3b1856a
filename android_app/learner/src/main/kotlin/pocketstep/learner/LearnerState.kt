package pocketstep.learner

/** What a snapshot means to a learner, checked against the bundle. */
internal class LearnerState private constructor(
    val version: Int,
    val values: Values,
    val samples: Samples,
    val chunks: List<Chunk>,
    val info: Map<String, Any?>,
    val classes: List<String>,
) {
    val updates: Int get() = number("updates") ?: 0

    /** The snapshot from before the last accepted update, if that can be taken back. */
    val beforeUpdate: Int? get() = number("before_update")

    private fun number(key: String): Int? = (info[key] as? Number)?.toInt()

    companion object {
        fun of(
            snapshot: Snapshot,
            manifest: Manifest,
            replay: ReplayStore,
        ): LearnerState {
            val chunks = Chunk.listOf(snapshot.info)
            val samples = replay.load(chunks, snapshot.tensors)
            val values =
                manifest.state.associate { spec ->
                    val tensor = snapshot.tensors[spec.name]
                    if (tensor == null || tensor.dtype != DType.F32 || tensor.shape != spec.shape.map { it.toLong() }) {
                        throw StateException("the state lacks '${spec.name}' of shape ${spec.shape}; remove it to start anew")
                    }
                    spec.name to tensor.toFloats()
                }
            val classes = (snapshot.info["classes"] as? List<*>)?.filterIsInstance<String>().orEmpty()
            if (classes.isEmpty() || classes.size > manifest.task.slots) {
                throw StateException("the state names its classes wrongly; remove it to start anew")
            }
            return LearnerState(snapshot.version, values, samples, chunks, snapshot.info, classes)
        }
    }
}
