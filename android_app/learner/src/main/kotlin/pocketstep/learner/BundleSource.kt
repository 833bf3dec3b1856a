package pocketstep.learner

import java.io.IOException
import java.io.InputStream
import java.nio.file.Files
import java.nio.file.LinkOption
import java.nio.file.Path
import java.nio.file.attribute.BasicFileAttributes

private const val DIGEST_BYTES = 65 // 64 hex digits and a newline

/** Where a bundle's bytes come from: a folder or a stored zip, both untrusted. */
internal interface BundleSource {
    val path: Path

    /** Whether there is anything of that name. */
    fun has(name: String): Boolean

    /** Opens a file for as long as [use] takes, and tells its real size in bytes. */
    fun <T> stream(
        name: String,
        use: (InputStream, Long) -> T,
    ): T

    /** Where a file lies outside of any archive. */
    fun pathOf(name: String): Path?

    /** Refuses what the container must not hold. */
    fun checkLayout(manifest: Manifest)
}

private class FolderSource(
    override val path: Path,
) : BundleSource {
    override fun has(name: String): Boolean = Files.exists(path.resolve(name), LinkOption.NOFOLLOW_LINKS)

    override fun <T> stream(
        name: String,
        use: (InputStream, Long) -> T,
    ): T {
        try {
            var place = path
            var found: BasicFileAttributes? = null
            for (part in name.split("/")) {
                place = place.resolve(part)
                found = Files.readAttributes(place, BasicFileAttributes::class.java, LinkOption.NOFOLLOW_LINKS)
                if (found.isSymbolicLink) {
                    throw BundleException("$place is a link, which a bundle can't hold. Copy the file itself there.")
                }
            }
            if (found?.isRegularFile != true) {
                throw BundleException(
                    "$place is no plain file, but the manifest lists it as one. Fetch the bundle again.",
                )
            }
            return Files.newInputStream(place, LinkOption.NOFOLLOW_LINKS).use { use(it, found.size()) }
        } catch (reason: IOException) {
            throw BundleException("$name of $path can't be read (${reasonOf(reason)}). Fetch the bundle again.", reason)
        }
    }

    override fun pathOf(name: String): Path = path.resolve(name)

    override fun checkLayout(manifest: Manifest) = Unit // a folder may hold other files: they are ignored
}

private class ZipSource(
    override val path: Path,
) : BundleSource {
    override fun has(name: String): Boolean = intact { StoredZip.entries(path).any { it.name == name } }

    override fun <T> stream(
        name: String,
        use: (InputStream, Long) -> T,
    ): T =
        intact {
            val entry =
                StoredZip.entries(path).lastOrNull { it.name == name }
                    ?: throw BundleException("$path has no $name. Fetch the bundle again, or check the path.")
            if (!entry.isStored) {
                throw BundleException("$name of $path is compressed. Zip the bundle without compression.")
            }
            StoredZip.open(path, entry).use { use(it, entry.size) }
        }

    override fun pathOf(name: String): Path? = null

    override fun checkLayout(manifest: Manifest) {
        val found = intact { StoredZip.entries(path) }
        val names = found.map { it.name }
        val wanted =
            manifest.files.keys + (Manifest.OWN_FILES - Manifest.SIGNATURE_FILE) +
                (setOf(Manifest.SIGNATURE_FILE) intersect names.toSet())
        val wrong = ((wanted - names.toSet()) + (names.toSet() - wanted)).sortedWith(codePointOrder)
        if (wrong.isNotEmpty() || names.size != wanted.size) {
            val what = wrong.firstOrNull() ?: "a file twice"
            throw BundleException("$path does not hold exactly the manifest's files: ${quoted(what)}. Fetch it again.")
        }
        found.firstOrNull { !it.isPlainFile }?.let {
            throw BundleException("${it.name} of $path is no plain file. Zip the bundle again.")
        }
        if (found.sumOf { it.size } > Files.size(path)) {
            throw BundleException("The files of $path claim more bytes than it has. Fetch the bundle again.")
        }
    }

    private fun <T> intact(use: () -> T): T =
        try {
            use()
        } catch (reason: IOException) {
            throw BundleException("$path is no intact zip (${reasonOf(reason)}). Fetch the bundle again.", reason)
        }
}

internal fun reasonOf(reason: IOException): String = reason.message ?: reason.javaClass.simpleName

/** A folder or a zip; BundleException for anything else. */
internal fun openSource(path: Path): BundleSource {
    val found =
        try {
            Files.readAttributes(path, BasicFileAttributes::class.java)
        } catch (reason: IOException) {
            throw BundleException("There is no bundle at $path (${reasonOf(reason)}). Check the path.", reason)
        }
    if (found.isDirectory) {
        if (!Files.exists(path.resolve(Manifest.FILE))) {
            throw BundleException("The folder $path is no bundle: it has no ${Manifest.FILE}. Check the path.")
        }
        return FolderSource(path)
    }
    if (!found.isRegularFile) {
        throw BundleException("$path is neither a folder nor a plain file, so it is no bundle. Check the path.")
    }
    return ZipSource(path)
}

/** The manifest's bytes, compared with their digest. */
internal fun readManifest(source: BundleSource): ByteArray {
    val data =
        source.stream(Manifest.FILE) { file, size ->
            if (size > Manifest.MAX_BYTES) {
                throw BundleException(
                    "${Manifest.FILE} of ${source.path} has $size bytes, too many. Fetch the bundle again.",
                )
            }
            file.readAtMost(size.toInt())
        }
    val line = source.stream(Manifest.DIGEST_FILE) { file, _ -> file.readAtMost(DIGEST_BYTES + 1) }
    if (!line.contentEquals("${sha256().digest(data).hex()}\n".toByteArray())) {
        throw BundleException(
            "${Manifest.FILE} or ${Manifest.DIGEST_FILE} of ${source.path} was cut or has changed bytes. " +
                "Fetch the bundle again.",
        )
    }
    return data
}

/** The bytes of `signature.ed25519`; null where there is none. */
internal fun readSignature(source: BundleSource): ByteArray? {
    if (!source.has(Manifest.SIGNATURE_FILE)) return null
    return source.stream(Manifest.SIGNATURE_FILE) { file, size ->
        if (size != Ed25519.SIGNATURE_BYTES.toLong()) {
            throw BundleException(
                "${Manifest.SIGNATURE_FILE} of ${source.path} has $size bytes, and a signature has " +
                    "${Ed25519.SIGNATURE_BYTES}: it was cut or changed. Fetch the bundle again.",
            )
        }
        file.readAtMost(size.toInt())
    }
}

/** At most [most] bytes; `InputStream.readNBytes` is not on every Android. */
internal fun InputStream.readAtMost(most: Int): ByteArray {
    val result = ByteArray(most)
    var filled = 0
    while (filled < most) {
        val count = read(result, filled, most - filled)
        if (count < 0) break
        filled += count
    }
    return result.copyOf(filled)
}
