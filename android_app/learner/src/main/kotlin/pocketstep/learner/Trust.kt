package pocketstep.learner

import java.nio.file.Files
import java.nio.file.LinkOption
import java.nio.file.Path

private val KEY = Regex("(?:[0-9a-fA-F]{2}){32}")
private const val RADIX = 16

/** A public key from its 64 hex digits, as `pocketstep keygen` writes them. */
internal fun parseKey(text: String): ByteArray {
    val digits = text.trim()
    val key = if (KEY.matches(digits)) digits.chunked(2).map { it.toInt(RADIX).toByte() }.toByteArray() else ByteArray(0)
    if (!Ed25519.isUsableKey(key)) {
        throw InputException(
            "${quoted(digits.first(80))} is no ed25519 public key: give the ${2 * Ed25519.KEY_BYTES} hex digits that " +
                "'pocketstep keygen' wrote into the file .pub",
        )
    }
    return key
}

/** Finds the trusted key, hex digits, that signed a manifest. */
internal fun checkSignature(
    manifest: ByteArray,
    signature: ByteArray?,
    trustedKeys: List<String>,
    where: Path,
): String {
    val keys = trustedKeys.map(::parseKey)
    if (keys.isEmpty()) {
        throw InputException(
            "no trusted key is given, so that no bundle can be trusted; give one, or None to trust all",
        )
    }
    if (signature == null) {
        throw BundleException(
            "$where is not signed (it has no ${Manifest.SIGNATURE_FILE}), and this app trusts signed bundles only. " +
                "Sign it with 'pocketstep sign', or fetch it from whom you trust.",
        )
    }
    val found = keys.firstOrNull { Ed25519.verify(it, signature, manifest) }
    return found?.hex() ?: throw BundleException(
        "The signature of $where is not by a key that this app trusts, or the bundle was changed after it was " +
            "signed. Fetch it from whom you trust.",
    )
}

/** The highest release that was opened with a state folder; lower ones are refused. Hold the folder's [FolderLock]. */
internal class ReleaseFloor(
    folder: Path,
) {
    private val path = folder.resolve("release.json")

    fun check(
        release: Long,
        name: String,
    ) {
        val floor = read()
        if (release < floor) {
            throw BundleException(
                "The bundle '$name' is release $release, and this device has had release $floor: going back is " +
                    "refused. Fetch the newest bundle; or, to go back on purpose, use another state folder.",
            )
        }
    }

    /** Raises the floor. Release 0 means not numbered, and writes nothing. */
    fun keep(release: Long) {
        if (release > read()) writeAtomically(path, "${Json.sorted(content(release))}\n".toByteArray())
    }

    private fun read(): Long {
        if (!Files.exists(path, LinkOption.NOFOLLOW_LINKS)) return 0
        val what = "The file $path"
        val value = Json.parse(readRegular(path, MOST_BYTES, what), what, asState)
        val release = (value as? Map<*, *>)?.get("release") as? Long
        if (release == null || value != content(release)) {
            throw StateException(
                "$what, which keeps old bundles out, is damaged. Restore it from a copy; remove it only if you know " +
                    "that your bundle is the newest one.",
            )
        }
        return release
    }

    private fun content(release: Long): Map<String, Any> =
        mapOf("release" to release, "sha256" to sha256().digest("pocketstep release $release".toByteArray()).hex())

    private companion object {
        const val MOST_BYTES = 1024L
    }
}
