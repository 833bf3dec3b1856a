package pocketstep.learner

import java.io.IOException
import java.nio.file.Files
import java.nio.file.Path
import kotlin.streams.toList

/** One saved state: its number, from 1; tensors by name; and a JSON object of the caller's. */
internal class Snapshot(
    val version: Int,
    val tensors: Map<String, Tensor>,
    val info: Map<String, Any?>,
    val bundle: String,
)

/** A snapshot that an older one can stand in for. */
private class DamagedException(
    message: String,
    cause: Throwable? = null,
) : StateException(message, cause)

private val asDamaged: Failure = ::DamagedException

/**
 * What the device has learned: numbered snapshots that a crash can't tear and damage can't slip into, in files that the
 * Python device package reads and writes too. Hold the folder's [FolderLock] while using it.
 */
internal open class StateStore(
    val folder: Path,
    protected val bundleId: String,
    private val mostBytes: Long = Int.MAX_VALUE.toLong(),
) {
    /** What went wrong without stopping anything, in sentences for the user. */
    val notes = ArrayList<String>()

    private var good: Int? = null // the snapshot that was loaded or saved last

    init {
        try {
            Files.createDirectories(folder)
        } catch (reason: IOException) {
            throw StateException("The state folder $folder can't be made (${reasonOf(reason)}). Choose another one.", reason)
        }
    }

    /**
     * The newest snapshot that is intact; null if there never was one. Damaged ones are passed over and noted.
     *
     * @param anyBundle whether it may belong to another bundle: for adopting it.
     * @throws StateException if all are damaged, or one belongs to another bundle or to a newer pocketstep.
     */
    open fun load(anyBundle: Boolean = false): Snapshot? {
        val versions = versions()
        for (version in versions.asReversed()) {
            try {
                return loadVersion(version, anyBundle).also { good = version }
            } catch (problem: DamagedException) {
                if (mayBeIntact(problem)) throw StateException(problem.message!!, problem) // nothing older in its place
                notes.add("${problem.message} An older state is used instead.")
            }
        }
        if (versions.isEmpty()) return null
        throw StateException(
            "Every saved state in $folder is damaged. " +
                "Restore the folder from a copy, or remove it to begin from the bundle.",
        )
    }

    /** One snapshot by its number, checked. */
    fun loadVersion(
        version: Int,
        anyBundle: Boolean = false,
    ): Snapshot {
        val path = pathOf(version)
        val file = Safetensors.read(readRegular(path, mostBytes, "The saved state $path", asDamaged), "The saved state $path", asDamaged)
        val metadata = file.metadata - DIGEST
        if (file.metadata[DIGEST].orEmpty() != digestOf(file.tensors, metadata)) {
            throw DamagedException("The saved state $path is damaged: its digest differs.")
        }
        checkOrigin(path, metadata, anyBundle)
        if (metadata["snapshot"] != version.toString()) {
            throw DamagedException("The saved state $path was renamed: it is number ${metadata["snapshot"]}.")
        }
        val info = Json.parse(metadata["info"].orEmpty().toByteArray(), "The info of $path", asDamaged)
        if (info !is Map<*, *>) {
            throw DamagedException("The saved state $path is damaged: its info is no JSON object.")
        }
        return Snapshot(
            version,
            file.tensors,
            info.entries.associate { (key, value) ->
                key as String to value
            },
            metadata.getValue("bundle"),
        )
    }

    /**
     * The info of every intact snapshot, whatever its bundle: what they refer to must not be removed.
     *
     * @throws StateException if one could not be read, and may be intact.
     */
    open fun infos(): List<Map<String, Any?>> =
        versions().mapNotNull {
            try {
                loadVersion(it, anyBundle = true).info
            } catch (problem: DamagedException) {
                if (mayBeIntact(problem)) throw problem
                null
            }
        }

    /** Saves a new snapshot, then removes all but it, the one before it, and those in `info["keep"]`. */
    open fun save(
        tensors: Map<String, Tensor>,
        info: Map<String, Any?>,
    ): Snapshot {
        val text = Json.sorted(info)
        val keep = keptBy(info)
        val versions = versions()
        val version = (versions.maxOrNull() ?: 0) + 1
        val metadata =
            mapOf(
                "format" to FORMAT,
                "version" to VERSION.toString(),
                "bundle" to bundleId,
                "snapshot" to version.toString(),
                "info" to text,
            )
        val digest = digestOf(tensors, metadata)
        writeAtomically(pathOf(version), Safetensors.write(tensors, metadata + (DIGEST to digest)))
        val before = good ?: versions.maxOrNull() ?: 0
        good = version
        remove(versions.toSet() - keep - before)
        return Snapshot(version, tensors, info, bundleId)
    }

    private fun checkOrigin(
        path: Path,
        metadata: Map<String, String>,
        anyBundle: Boolean,
    ) {
        val version = metadata["version"].orEmpty()
        if (metadata["format"] != FORMAT || !NUMBER.matches(version)) {
            throw DamagedException("$path is no saved state of pocketstep.")
        }
        if (version.toInt() > VERSION) {
            throw StateException("$path was saved by a newer pocketstep. Update pocketstep-device.")
        }
        val origin = metadata["bundle"]
        if (origin == null) throw DamagedException("The saved state $path is damaged: it does not name its bundle.")
        if (origin != bundleId && !anyBundle) {
            throw StateException(
                "The saved state $path belongs to another bundle. Open that bundle, let this one adopt the state " +
                    "('pocketstep-device adopt'), or choose another state folder for it.",
            )
        }
    }

    private fun versions(): List<Int> {
        try {
            val names = Files.list(folder).use { found -> found.map { it.fileName.toString() }.toList() }
            return names
                .mapNotNull { name -> FILE.matchEntire(name)?.groupValues?.get(1)?.toIntOrNull()?.takeIf { fileName(it) == name } }
                .sorted()
        } catch (reason: IOException) {
            throw StateException(
                "The state folder $folder can't be read (${reasonOf(reason)}). Check its permissions.",
                reason,
            )
        }
    }

    private fun pathOf(version: Int): Path = folder.resolve(fileName(version))

    private fun remove(versions: Set<Int>) {
        removeLeftovers(folder)
        versions.sorted().forEach {
            try {
                Files.deleteIfExists(pathOf(it))
            } catch (reason: IOException) {
                notes.add("The old state ${pathOf(it)} could not be removed (${reasonOf(reason)}).")
            }
        }
    }

    private companion object {
        const val FORMAT = "pocketstep-state"
        const val VERSION = 1
        const val DIGEST = "sha256"
        val FILE = Regex("snapshot-(\\d{6,18})\\.safetensors")
        val NUMBER = Regex("[0-9]{1,9}")

        fun fileName(version: Int): String = "snapshot-%06d.safetensors".format(java.util.Locale.ROOT, version)

        /** SHA-256 over metadata and tensors, each after its name, type and shape, in the order of names. */
        fun digestOf(
            tensors: Map<String, Tensor>,
            metadata: Map<String, String>,
        ): String {
            val digest = sha256()
            digest.update(Json.sorted(metadata).toByteArray())
            for (name in tensors.keys.sortedWith(codePointOrder)) {
                val tensor = tensors.getValue(name)
                digest.update(Json.sorted(listOf(name, tensor.dtype.numpy, tensor.shape)).toByteArray())
                digest.update(tensor.bytes)
            }
            return digest.digest().hex()
        }

        fun keptBy(info: Map<String, Any?>): Set<Int> {
            val keep = info["keep"] ?: return emptySet()
            if (keep !is List<*> || !keep.all { it is Long || it is Int }) {
                throw InputException("info[\"keep\"] must be a list of version numbers, not $keep.")
            }
            return keep.map { (it as Number).toInt() }.toSet()
        }
    }
}
