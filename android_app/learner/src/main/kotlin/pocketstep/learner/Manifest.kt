package pocketstep.learner

/**
 * The contract between the cloud that makes a bundle and the device that learns with it: all of `manifest.json`.
 *
 * Every property is a JSON key (`max_old_loss` becomes [Accept.maxOldLoss]); all are required, none other is allowed.
 */
public class Manifest internal constructor(
    public val version: Int,
    public val name: String,
    public val producer: String,
    /** Counts up with what is published for the same devices, which refuse a lower one; 0: not numbered. */
    public val release: Long,
    public val task: Task,
    public val latent: Latent,
    public val plan: Plan,
    public val signatures: Map<String, Signature>,
    public val state: List<StateTensor>,
    public val hyper: Map<String, Hyper>,
    public val schedules: Map<String, Schedule>,
    public val cost: Map<String, Double>,
    public val runtimes: Map<String, RuntimeEntry>,
    public val files: Map<String, FileEntry>,
) {
    public companion object {
        internal const val FORMAT = "pocketstep-bundle"
        internal const val VERSION = 1
        internal const val FILE = "manifest.json"
        internal const val DIGEST_FILE = "manifest.sha256"
        internal const val SIGNATURE_FILE = "signature.ed25519"

        /** What lies beside the files that a manifest lists. */
        internal val OWN_FILES = setOf(FILE, DIGEST_FILE, SIGNATURE_FILE)

        /** Largest manifest that is read, in bytes: parsed, hostile JSON takes some twenty times as much memory. */
        internal const val MAX_BYTES = 4 * 1024 * 1024

        /**
         * Reads and checks a manifest.
         *
         * @throws BundleException if it is no manifest, made by a newer pocketstep, or wrong anywhere; the message has
         * the path of the first field that is wrong.
         */
        @JvmStatic
        public fun parse(data: ByteArray): Manifest = parseManifest(data)
    }
}

/** The classes that the bundle knows from the start; rows up to [slots] are free for new ones. */
public class Task internal constructor(
    public val classes: List<String>,
    public val slots: Int,
    public val input: ImageInput,
)

/** What `encode` takes: [shape] (H, W, C), values in [range]; [mean] and [std] have C numbers. */
public class ImageInput internal constructor(
    public val shape: List<Int>,
    public val range: List<Double>,
    public val colour: String,
    public val mean: List<Double>,
    public val std: List<Double>,
) {
    public val height: Int get() = shape[0]
    public val width: Int get() = shape[1]
    public val channels: Int get() = shape[2]
}

/** The frozen prefix's output for one image: [shape] (h, w, c), as it is stored, in int8. */
public class Latent internal constructor(
    public val shape: List<Int>,
)

/** Which parameters are trained, and where the frozen prefix ends. */
public class Plan internal constructor(
    public val preset: String,
    public val cut: String,
    public val parameters: List<Parameter>,
    /** Empty where the manifest has none. */
    public val paths: List<PathAxis>,
)

/**
 * Where the critical paths of the trained tensor [name] lie: path p, of class slot p, is p * [size] .. (p + 1) * [size]
 * of its [axis]. A tensor with two entries holds, of each path, the block where both meet; the rest is zero.
 */
public class PathAxis internal constructor(
    public val name: String,
    public val axis: Int,
    public val size: Int,
)

/** One parameter of the network and what training may do to it: [role] is frozen, centre, full or head. */
public class Parameter internal constructor(
    public val name: String,
    public val role: String,
    public val shape: List<Int>,
    public val trained: Boolean,
    public val group: String?,
)

/** One entry point of the program. */
public class Signature internal constructor(
    public val batch: Int,
    public val inputs: List<TensorSpec>,
    public val outputs: List<TensorSpec>,
)

/** An input or output of a signature; [source] says where an input comes from, or what an output is. */
public class TensorSpec internal constructor(
    public val name: String,
    public val shape: List<Int>,
    public val source: String,
    public val meaning: String,
) {
    internal val dimensions: IntArray = shape.toIntArray()
}

/** A float32 tensor that changes on the device; [kind] is parameter, optimiser, head, statistics or control. */
public class StateTensor internal constructor(
    public val name: String,
    public val shape: List<Int>,
    public val kind: String,
)

/** A hyper-parameter, its default and the range it may be set in. */
public class Hyper internal constructor(
    public val default: Double,
    public val min: Double,
    public val max: Double,
    public val meaning: String,
)

/** When an update is kept: how far held-back accuracy (0 to 1) may fall, of old classes together and of any one. */
public class Accept internal constructor(
    public val maxOldLoss: Double,
    public val maxClassLoss: Double,
)

/** What one kind of update does: phases in order, each with a `kind`. */
public class Schedule internal constructor(
    public val meaning: String,
    public val phases: List<Phase>,
    public val accept: Accept,
) {
    /** How many phases train; each leaves trained tensors of its own. */
    internal val training: Int get() = phases.count { it.kind == "train" }
}

/** One runtime's program, the versions it was exported with, and what its accelerator takes over. */
public class RuntimeEntry internal constructor(
    public val file: String,
    public val versions: Map<String, String>,
    public val delegated: Map<String, Double>,
)

/** Digest (64 hex digits) and size of one file of the bundle. */
public class FileEntry internal constructor(
    public val sha256: String,
    public val bytes: Long,
)
