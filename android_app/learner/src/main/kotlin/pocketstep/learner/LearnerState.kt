package pocketstep.learner

/** What a snapshot means to a learner, checked against the bundle. */
internal class LearnerState(
    val version: Int,
    val values: Values,
    val samples: Samples,
    val chunks: List<Chunk>,
    val info: Map<String, Any?>,
) {
    val classes: List<String> = (info.getValue("classes") as List<*>).map { it as String }

    val updates: Int get() = number("updates") ?: 0

    /** The snapshot from before the last accepted update, if that can be taken back. */
    val beforeUpdate: Int? get() = number("before_update")

    fun status(
        bundle: Bundle,
        notes: List<String>,
    ): Status {
        val manifest = bundle.manifest
        val mask = values.required("class_mask").data
        return Status(
            bundle = manifest.name,
            release = manifest.release,
            signedBy = bundle.signedBy,
            version = version,
            updates = updates,
            classes = classes,
            notYetLearned = classes.filterIndexed { slot, _ -> mask[slot] == 0f },
            freeSlots = manifest.task.slots - classes.size,
            storedSamples =
                classes.withIndex().associate { (slot, name) -> name to samples.labels.count { it == slot } },
            pendingSamples = samples.pending.count { it },
            canRollBack = beforeUpdate != null,
            notes = notes,
        )
    }

    private fun number(key: String): Int? = (info[key] as? Number)?.toInt()
}
