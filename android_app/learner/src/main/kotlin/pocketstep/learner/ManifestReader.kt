package pocketstep.learner

import java.math.BigInteger

internal const val MAX_MANIFEST_NAME = 200
private const val MAX_TEXT = 4096

internal fun failManifest(
    path: String,
    problem: String,
): Nothing =
    throw BundleException(
        "The manifest's ${path.ifEmpty { "top level" }} $problem. Build the bundle again, or fetch it again.",
    )

internal fun parseManifest(data: ByteArray): Manifest {
    if (data.size > Manifest.MAX_BYTES) {
        throw BundleException(
            "The manifest has ${data.size} bytes, more than ${Manifest.MAX_BYTES}. Fetch the bundle again.",
        )
    }
    val raw = Json.parse(data, "The manifest", asBundle)
    if (raw !is Map<*, *> || raw["format"] != Manifest.FORMAT) {
        throw BundleException(
            "The manifest has no \"format\": \"${Manifest.FORMAT}\", so this is no bundle. Check the path.",
        )
    }
    val version = raw["version"]
    if ((version is Long && version > Manifest.VERSION) || (version is BigInteger && version.signum() > 0)) {
        throw BundleException(
            "The bundle has format version $version and ${Manifest.VERSION} is understood: it was made by " +
                "a newer pocketstep; update pocketstep-device or rebuild the bundle.",
        )
    }
    val manifest = manifest(Node(raw, ""))
    checkManifest(manifest)
    return manifest
}

/** A JSON value and its path in the manifest; every reading of it names the path when it does not fit. */
private class Node(
    private val value: Any?,
    private val path: String,
) {
    /** The fields of an object that has exactly these, and [optional] or not. */
    fun fields(
        vararg names: String,
        optional: String? = null,
    ): Map<String, Node> {
        val all = value as? Map<*, *> ?: failManifest(path, "must be an object")
        names.forEach { if (it !in all) failManifest(join(it), "is missing") }
        all.keys.forEach {
            if (it !in names && it != optional) failManifest(join((it as String).first(MAX_MANIFEST_NAME)), "is unknown")
        }
        return (names.toList() + listOfNotNull(optional?.takeIf { it in all })).associateWith { Node(all[it], join(it)) }
    }

    fun <T> list(item: (Node) -> T): List<T> {
        val all = value as? List<*> ?: failManifest(path, "must be a list")
        return all.mapIndexed { index, it -> item(Node(it, "$path[$index]")) }
    }

    fun <T> map(item: (Node) -> T): Map<String, T> {
        val all = value as? Map<*, *> ?: failManifest(path, "must be an object")
        return all.entries.associate { (key, it) ->
            Node(key, "$path (a key)").text() to item(Node(it, join(key as String)))
        }
    }

    fun text(): String {
        val text = value as? String ?: failManifest(path, "must be text")
        if (text.points > MAX_TEXT) failManifest(path, "is longer than $MAX_TEXT characters")
        return text
    }

    fun textOrNull(): String? =
        when {
            value == null -> null
            value is String && value.points <= MAX_TEXT -> value
            else -> failManifest(path, "has a type that does not belong there")
        }

    /** A whole number, the nearest `Long` of one that is larger. */
    fun whole(): Long =
        when (value) {
            is Long -> value
            is BigInteger -> if (value.signum() > 0) Long.MAX_VALUE else Long.MIN_VALUE
            else -> failManifest(path, "must be a whole number")
        }

    fun number(): Double =
        when (value) {
            is Long -> value.toDouble()
            is BigInteger -> value.toDouble()
            is Double -> if (value.isFinite()) value else failManifest(path, "must be a finite number")
            else -> failManifest(path, "must be a finite number")
        }

    fun flag(): Boolean = value as? Boolean ?: failManifest(path, "must be true or false")

    fun choice(vararg options: String): String {
        if (value !in options) failManifest(path, "must be one of ${options.joinToString(", ")}")
        return value as String
    }

    fun phaseValue(): Any {
        if (value is List<*>) {
            return value.map { scalar(it) ?: failManifest(path, "has a type that does not belong there") }
        }
        return scalar(value) ?: failManifest(path, "has a type that does not belong there")
    }

    private fun scalar(item: Any?): Any? =
        when (item) {
            is String -> item.takeIf { it.points <= MAX_TEXT }
            is Boolean -> item
            is Long -> item.toDouble()
            is BigInteger -> item.toDouble()
            is Double -> item.takeIf { it.isFinite() }
            else -> null
        }

    private fun join(name: String): String = if (path.isEmpty()) name else "$path.$name"
}

/** The document in the order of its definition; shapes stay `Long` until they are checked. */
private fun manifest(node: Node): Manifest {
    val top =
        node.fields(
            "format",
            "version",
            "name",
            "producer",
            "release",
            "task",
            "latent",
            "plan",
            "signatures",
            "state",
            "hyper",
            "schedules",
            "cost",
            "runtimes",
            "files",
        )
    top.getValue("format").text()
    return Manifest(
        version = top.getValue("version").whole().clamped(),
        name = top.getValue("name").text(),
        producer = top.getValue("producer").text(),
        release = top.getValue("release").whole(),
        task = task(top.getValue("task")),
        latent =
            top.getValue("latent").fields("shape", "dtype").let {
                Latent(sizes(it.getValue("shape"))).apply { it.getValue("dtype").choice("int8") }
            },
        plan = plan(top.getValue("plan")),
        signatures = top.getValue("signatures").map(::signature),
        state = top.getValue("state").list(::stateTensor),
        hyper = top.getValue("hyper").map(::hyper),
        schedules = top.getValue("schedules").map(::schedule),
        cost = top.getValue("cost").map { it.number() },
        runtimes = top.getValue("runtimes").map(::runtime),
        files = top.getValue("files").map(::file),
    )
}

private fun task(node: Node): Task {
    val fields = node.fields("classes", "slots", "input")
    return Task(
        fields.getValue("classes").list { it.text() },
        fields.getValue("slots").whole().clamped(),
        input(fields.getValue("input")),
    )
}

private fun input(node: Node): ImageInput {
    val fields = node.fields("shape", "range", "colour", "mean", "std")
    return ImageInput(
        sizes(fields.getValue("shape")),
        fields.getValue("range").list { it.number() },
        fields.getValue("colour").choice("grey", "rgb"),
        fields.getValue("mean").list { it.number() },
        fields.getValue("std").list { it.number() },
    )
}

private fun plan(node: Node): Plan {
    val fields = node.fields("preset", "cut", "parameters", optional = "paths")
    return Plan(
        fields.getValue("preset").text(),
        fields.getValue("cut").text(),
        fields.getValue("parameters").list { item ->
            val parameter = item.fields("name", "role", "shape", "trained", "group")
            Parameter(
                parameter.getValue("name").text(),
                parameter.getValue("role").choice("frozen", "centre", "full", "head"),
                sizes(parameter.getValue("shape")),
                parameter.getValue("trained").flag(),
                parameter.getValue("group").textOrNull(),
            )
        },
        fields["paths"]?.list(::pathAxis).orEmpty(),
    )
}

private fun pathAxis(node: Node): PathAxis {
    val fields = node.fields("name", "axis", "size")
    return PathAxis(
        fields.getValue("name").text(),
        fields.getValue("axis").whole().clamped(),
        fields.getValue("size").whole().clamped(),
    )
}

private fun signature(node: Node): Signature {
    val fields = node.fields("batch", "inputs", "outputs")
    return Signature(
        fields.getValue("batch").whole().clamped(),
        fields.getValue("inputs").list(::tensor),
        fields.getValue("outputs").list(::tensor),
    )
}

private fun tensor(node: Node): TensorSpec {
    val fields = node.fields("name", "shape", "dtype", "source", "meaning")
    val name = fields.getValue("name").text()
    val shape = sizes(fields.getValue("shape"))
    fields.getValue("dtype").choice("float32")
    val source = fields.getValue("source").choice("batch", "state", "hyper", "control", "statistics", "result")
    return TensorSpec(name, shape, source, fields.getValue("meaning").text())
}

private fun stateTensor(node: Node): StateTensor {
    val fields = node.fields("name", "shape", "dtype", "kind")
    val name = fields.getValue("name").text()
    val shape = sizes(fields.getValue("shape"))
    fields.getValue("dtype").choice("float32")
    return StateTensor(
        name,
        shape,
        fields.getValue("kind").choice("parameter", "optimiser", "head", "statistics", "control"),
    )
}

private fun hyper(node: Node): Hyper {
    val fields = node.fields("default", "min", "max", "meaning")
    val (default, min, max) = listOf("default", "min", "max").map { fields.getValue(it).number() }
    return Hyper(default, min, max, fields.getValue("meaning").text())
}

private fun schedule(node: Node): Schedule {
    val fields = node.fields("meaning", "phases", "accept")
    val meaning = fields.getValue("meaning").text()
    val phases = fields.getValue("phases").list { Phase(it.map { value -> value.phaseValue() }) }
    val accept = fields.getValue("accept").fields("max_old_loss", "max_class_loss")
    return Schedule(
        meaning,
        phases,
        Accept(accept.getValue("max_old_loss").number(), accept.getValue("max_class_loss").number()),
    )
}

private fun runtime(node: Node): RuntimeEntry {
    val fields = node.fields("file", "versions", "delegated")
    return RuntimeEntry(
        fields.getValue("file").text(),
        fields.getValue("versions").map { it.text() },
        fields.getValue("delegated").map { it.number() },
    )
}

private fun file(node: Node): FileEntry {
    val fields = node.fields("sha256", "bytes")
    return FileEntry(fields.getValue("sha256").text(), fields.getValue("bytes").whole())
}

/** Sizes as `Int`: what is too large or too small for one stays outside the bounds that are checked later. */
private fun sizes(node: Node): List<Int> = node.list { it.whole().clamped() }

private fun Long.clamped(): Int = coerceIn(Int.MIN_VALUE.toLong(), Int.MAX_VALUE.toLong()).toInt()
