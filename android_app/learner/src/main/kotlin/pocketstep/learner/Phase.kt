package pocketstep.learner

/**
 * One phase of a schedule: texts, numbers, truths, and lists of these, by key. The keys that an update understands are
 * the properties below; what a phase does with them is in `Phases.kt` and
 * `Trainer.kt`.
 */
public class Phase internal constructor(
    internal val values: Map<String, Any?>,
) {
    public val kind: String get() = values.getValue("kind") as String
    public val name: String get() = values["name"]?.let(::text) ?: kind

    internal val refresh: Boolean get() = isTrue("refresh")
    internal val rows: String get() = required("rows").let(::text)
    internal val epochs: Int get() = number("epochs").toInt()
    internal val learningRate: Double get() = number("learning_rate")
    internal val freeze: Double get() = hyper("freeze") ?: 0.0
    internal val freezeByLayer: Boolean get() = isTrue("freeze_by_layer")
    internal val channels: Double get() = hyper("channels") ?: 1.0
    internal val newPaths: Double get() = hyper("new_paths") ?: 1.0
    internal val otherPaths: Double get() = hyper("other_paths") ?: 1.0
    internal val maxSteps: Int? get() = hyper("max_steps")?.toInt()
    internal val checks: Int get() = hyper("checks")?.toInt() ?: 0
    internal val balanced: Boolean get() = "balanced" !in values || isTrue("balanced")
    internal val project: String? get() = if (isTrue("project")) text(required("project")) else null

    internal fun rowsOr(default: String): String = values["rows"]?.let(::text) ?: default

    /** The value of a hyper-parameter, where the phase sets one. */
    internal fun hyper(name: String): Double? = if (name in values) number(name) else null

    private fun isTrue(key: String): Boolean =
        when (val value = values[key]) {
            null -> false
            is Boolean -> value
            is Double -> value != 0.0
            is String -> value.isNotEmpty()
            is List<*> -> value.isNotEmpty()
            else -> false
        }

    private fun number(key: String): Double =
        when (val value = required(key)) {
            is Double -> value
            is Boolean -> if (value) 1.0 else 0.0
            else -> throw BundleException("the schedule's phase '$name' has no number in '$key'; build the bundle again")
        }

    private fun required(key: String): Any =
        values[key] ?: throw BundleException("the schedule's phase '$name' lacks '$key'; build the bundle again")

    private fun text(value: Any): String = value as? String ?: value.toString()
}
