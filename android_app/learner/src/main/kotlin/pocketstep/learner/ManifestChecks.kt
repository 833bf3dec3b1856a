package pocketstep.learner

private const val MAX_RELEASE = 1L shl 53
private const val MAX_SLOTS = 100_000
private const val MAX_BATCH = 65_536
private const val MAX_RANK = 5
private const val MAX_SIZE = 1L shl 31
private const val MAX_FILE = 1L shl 40
private const val MAX_PATH = 255
private const val MAX_PIXEL = 1e6
private val PHASE_NEEDS = mapOf("train" to listOf("rows", "epochs", "learning_rate"))

/** Numbers of a phase that are no hyper-parameters of the program; those must lie in the manifest's own ranges. */
private val PHASE_RANGES =
    mapOf(
        "epochs" to 0.0..1e4,
        "learning_rate" to 0.0..1e3,
        "max_steps" to 0.0..1e9,
        "checks" to 0.0..1e4,
        "freeze" to 0.0..1.0,
        "channels" to 0.0..1.0,
        "new_paths" to 0.0..100.0,
        "other_paths" to 0.0..100.0,
    )
private const val IMAGE_RANK = 3
private val PATH = Regex("[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")
private val SHA256 = Regex("[0-9a-f]{64}")
private val CHANNELS = mapOf("grey" to 1, "rgb" to 3)
private val CONTROL =
    setOf(Character.CONTROL, Character.SURROGATE, Character.LINE_SEPARATOR, Character.PARAGRAPH_SEPARATOR)
        .map { it.toInt() }
        .toSet()

/** Whether a bundle's file may have this relative path: letters, digits, `. _ - /`, and no `..`. */
internal fun isPlainPath(path: String): Boolean =
    path.length <= MAX_PATH && PATH.matches(path) && path.split("/").none { it == "." || it == ".." }

/** What the types can't say: bounds, and that the parts agree with one another. */
internal fun checkManifest(manifest: Manifest) {
    if (manifest.version != Manifest.VERSION) failManifest("version", "must be ${Manifest.VERSION}")
    checkName(manifest.name, "name")
    if (manifest.release !in 0..MAX_RELEASE) failManifest("release", "must be 0 to $MAX_RELEASE")
    checkTask(manifest.task)
    checkShape(manifest.latent.shape, "latent.shape", IMAGE_RANK)
    checkUnique(manifest.plan.parameters.map { it.name }, "plan.parameters")
    manifest.plan.parameters.forEachIndexed { index, it -> checkShape(it.shape, "plan.parameters[$index].shape") }
    checkUnique(manifest.state.map { it.name }, "state")
    manifest.state.forEachIndexed { index, it -> checkShape(it.shape, "state[$index].shape") }
    val state = manifest.state.associate { it.name to it.shape }
    checkPaths(manifest)
    manifest.signatures.forEach { (name, signature) -> checkSignature(signature, state, manifest.hyper, "signatures.$name") }
    manifest.hyper.forEach { (name, hyper) ->
        if (!(hyper.min <= hyper.default && hyper.default <= hyper.max)) {
            failManifest("hyper.$name", "must have min <= default <= max")
        }
    }
    manifest.schedules.forEach { (name, schedule) -> checkSchedule(schedule, manifest.hyper, "schedules.$name") }
    checkFiles(manifest)
}

private fun checkPaths(manifest: Manifest) {
    val trained = manifest.state.filter { it.kind == "parameter" }.associate { it.name to it.shape }
    val seen = HashSet<Pair<String, Int>>()
    manifest.plan.paths.forEachIndexed { index, path ->
        val where = "plan.paths[$index]"
        val shape =
            trained[path.name]
                ?: failManifest("$where.name", "is ${quoted(path.name.first(MAX_MANIFEST_NAME))}, which is no trained tensor of the state")
        val length = shape.getOrNull(path.axis)?.toLong()
        if (path.size < 1 || length != path.size.toLong() * manifest.task.slots) {
            failManifest(where, "must divide an axis of its tensor into one path for each class slot")
        }
        if (!seen.add(path.name to path.axis)) failManifest(where, "is there twice")
    }
}

private fun checkTask(task: Task) {
    val image = task.input
    if (task.classes.isEmpty()) failManifest("task.classes", "must have at least one class")
    task.classes.forEachIndexed { index, name -> checkName(name, "task.classes[$index]") }
    checkUnique(task.classes, "task.classes")
    if (task.slots !in task.classes.size..MAX_SLOTS) {
        failManifest("task.slots", "must be at least the number of classes, and at most $MAX_SLOTS")
    }
    checkShape(image.shape, "task.input.shape", IMAGE_RANK)
    if (image.channels != CHANNELS[image.colour]) {
        failManifest("task.input.shape", "must end with ${CHANNELS[image.colour]} for colour ${image.colour}")
    }
    val range = image.range
    if (range.size != 2 || range[0] < -MAX_PIXEL || range[0] >= range[1] || range[1] > MAX_PIXEL) {
        failManifest("task.input.range", "must be two numbers within ${general(MAX_PIXEL)} of 0, the smaller one first")
    }
    if (image.mean.size != image.channels || image.std.size != image.channels) {
        failManifest("task.input.mean", "and task.input.std must have one number a channel")
    }
    if (image.std.min() <= 0) failManifest("task.input.std", "must be above 0")
}

private fun checkSignature(
    signature: Signature,
    state: Map<String, List<Int>>,
    hyper: Map<String, Hyper>,
    path: String,
) {
    if (signature.batch !in 1..MAX_BATCH) failManifest("$path.batch", "must be 1 to $MAX_BATCH")
    for ((side, tensors) in listOf("inputs" to signature.inputs, "outputs" to signature.outputs)) {
        checkUnique(tensors.map { it.name }, "$path.$side")
        tensors.forEachIndexed { index, it -> checkShape(it.shape, "$path.$side[$index].shape") }
    }
    signature.inputs.forEachIndexed { index, tensor ->
        if (tensor.source == "state" && tensor.name !in state) {
            failManifest("$path.inputs[$index].name", "is ${quoted(tensor.name)}, which is not in state")
        }
        if (tensor.source == "state" && tensor.shape != state[tensor.name]) {
            failManifest("$path.inputs[$index].shape", "is not that of ${quoted(tensor.name)} in state")
        }
        if (tensor.source == "hyper" && tensor.name !in hyper) {
            failManifest("$path.inputs[$index].name", "is ${quoted(tensor.name)}, which is not in hyper")
        }
    }
}

private fun checkSchedule(
    schedule: Schedule,
    hyper: Map<String, Hyper>,
    path: String,
) {
    val limits = mapOf("max_old_loss" to schedule.accept.maxOldLoss, "max_class_loss" to schedule.accept.maxClassLoss)
    limits.forEach { (field, limit) -> if (limit < 0) failManifest("$path.accept.$field", "must be at least 0") }
    schedule.phases.forEachIndexed { index, phase ->
        val where = "$path.phases[$index]"
        if (phase.values["kind"] !is String) failManifest("$where.kind", "is missing or no text")
        PHASE_NEEDS[phase.kind].orEmpty().firstOrNull { it !in phase.values }?.let { failManifest("$where.$it", "is missing") }
        for ((key, value) in phase.values) {
            val range = PHASE_RANGES[key] ?: hyper[key]?.let { it.min..it.max } ?: continue
            if (value !is Double || value !in range) {
                failManifest("$where.$key", "must be a number from ${general(range.start)} to ${general(range.endInclusive)}")
            }
        }
    }
}

private fun checkFiles(manifest: Manifest) {
    val files = manifest.files
    files.forEach { (path, entry) ->
        val where = "files[${quoted(path.first(MAX_MANIFEST_NAME))}]"
        if (!isPlainPath(path) || path.lowercase() in Manifest.OWN_FILES) {
            failManifest(
                where,
                "must be a relative path of letters, digits, '.', '_', '-' and '/', and not the manifest's",
            )
        }
        if (!SHA256.matches(entry.sha256)) failManifest("$where.sha256", "must be 64 small hex digits")
        if (entry.bytes !in 0..MAX_FILE) failManifest("$where.bytes", "must be 0 to $MAX_FILE")
        val parts = path.split("/")
        if ((1 until parts.size).any { parts.take(it).joinToString("/") in files }) {
            failManifest(where, "lies in another file as if that were a folder")
        }
    }
    checkUnique(files.keys.map { it.lowercase() }, "files")
    manifest.runtimes.forEach { (name, runtime) ->
        if (files.keys.none { it == runtime.file || it.startsWith("${runtime.file}/") }) {
            failManifest("runtimes.$name.file", "is ${quoted(runtime.file)}, which is not in files")
        }
    }
}

private fun checkShape(
    shape: List<Int>,
    path: String,
    rank: Int? = null,
) {
    if (rank != null && (shape.size != rank || shape.min() < 1)) {
        failManifest(path, "must be $rank sizes, each at least 1")
    }
    if (shape.size > MAX_RANK) failManifest(path, "must have at most $MAX_RANK sizes")
    // Sizes are held as Int, so a tensor's limit is Int's largest value: one less than Python's, and as far away.
    val product = shape.fold(1L) { all, size -> if (all > MAX_SIZE) all else all * size }
    if (shape.any { it < 0 || it == Int.MAX_VALUE } || product > MAX_SIZE) {
        failManifest(path, "must be sizes of 0 to $MAX_SIZE, and so must be their product")
    }
}

/** Whether a class or a bundle may be called so. */
internal fun isName(name: String): Boolean =
    name.isNotBlank() && name.points <= MAX_MANIFEST_NAME && name.codePoints().noneMatch { Character.getType(it) in CONTROL }

private fun checkName(
    name: String,
    path: String,
) {
    if (!isName(name)) {
        failManifest(path, "must be a text of 1 to $MAX_MANIFEST_NAME characters without control characters")
    }
}

private fun checkUnique(
    names: List<String>,
    path: String,
) {
    val seen = HashSet<String>()
    names.forEach { if (!seen.add(it)) failManifest(path, "has ${quoted(it.first(MAX_MANIFEST_NAME))} twice") }
}
