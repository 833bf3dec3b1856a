package pocketstep.learner

import java.io.ByteArrayOutputStream
import java.io.InputStream
import java.io.OutputStream
import java.nio.file.FileVisitOption
import java.nio.file.Files
import java.nio.file.LinkOption
import java.nio.file.Path
import kotlin.streams.toList

/**
 * A learning bundle, a folder or a stored zip, whose every listed file had the right size and digest when it was opened.
 *
 * Nothing stays open between calls; each [read] checks again. These digests find damage; who made a bundle is known
 * only through its signature.
 */
public class Bundle private constructor(
    public val path: Path,
    private val source: BundleSource,
    public val manifest: Manifest,
    /** SHA-256 of `manifest.json`, 64 hex digits: the bundle's identity, since it covers all files. */
    public val digest: String,
    /** The trusted key (hex digits) that signed it; null where no key was asked for. */
    public val signedBy: String?,
) {
    /**
     * The content of one file that the manifest lists, checked against its digest once more.
     *
     * @throws BundleException if the manifest does not list it, or it changed.
     */
    public fun read(name: String): ByteArray = ByteArrayOutputStream().also { copy(name, it) }.toByteArray()

    internal fun tensors(name: String): TensorFile = Safetensors.read(read(name), "$name of $path", asBundle)

    /**
     * Where a file lies, or a folder of files, for a runtime that wants a path; null in a zip: then use [read].
     *
     * @throws BundleException if the manifest does not list it, or if a folder holds anything that is not listed.
     */
    public fun filePath(name: String): Path? {
        val listed = manifest.files.keys.filter { it.startsWith("$name/") }.toSet()
        if (name !in manifest.files && listed.isEmpty()) throw unlisted(name)
        val found = source.pathOf(name) ?: return null
        if (Files.isDirectory(found, LinkOption.NOFOLLOW_LINKS)) {
            val inside =
                Files.walk(found, *emptyArray<FileVisitOption>()).use { items ->
                    items.toList().filterNot { Files.isDirectory(it, LinkOption.NOFOLLOW_LINKS) }
                }
            if (inside.map { path.relativize(it).toString() }.toSet() != listed) {
                throw BundleException("The folder $found holds files that the manifest does not list. Remove them.")
            }
        }
        return found
    }

    private fun unlisted(name: String): BundleException =
        BundleException("$path has no file ${quoted(name)}. Build the bundle again for the runtime that needs it.")

    /** Streams a listed file through its checks, into [target] if there is one. */
    private fun copy(
        name: String,
        target: OutputStream?,
    ) {
        val entry = manifest.files[name] ?: throw unlisted(name)
        val digest = sha256()
        source.stream(name) { file, size ->
            if (size != entry.bytes) {
                throw BundleException(
                    "$name of $path has $size bytes and the manifest says ${entry.bytes}: " +
                        "it was cut or changed. Fetch the bundle again.",
                )
            }
            file.blocks(size) { block, count ->
                digest.update(block, 0, count)
                target?.write(block, 0, count)
            }
        }
        if (digest.digest().hex() != entry.sha256) {
            throw BundleException("$name of $path has changed bytes: its digest differs. Fetch the bundle again.")
        }
    }

    public companion object {
        /**
         * Opens a folder or zip and checks all of it.
         *
         * @param trustedKeys ed25519 public keys, 64 hex digits each: one of them must have signed the manifest, which
         * is checked before the manifest is parsed. Null asks for no signature.
         * @throws BundleException if it is not there, no bundle, cut, changed (the message names the file), holds
         * links, was made by a newer pocketstep, or is not signed by a trusted key.
         */
        @JvmStatic
        @JvmOverloads
        public fun open(
            path: Path,
            trustedKeys: List<String>? = null,
        ): Bundle {
            val source = openSource(path)
            val data = readManifest(source)
            val signedBy = trustedKeys?.let { checkSignature(data, readSignature(source), it, path) }
            val manifest = Manifest.parse(data)
            source.checkLayout(manifest)
            val bundle = Bundle(path, source, manifest, sha256().digest(data).hex(), signedBy)
            manifest.files.keys.forEach { bundle.copy(it, null) }
            return bundle
        }
    }
}

private const val BLOCK = 1 shl 16

/** Hands on at most [size] bytes in blocks. */
private fun InputStream.blocks(
    size: Long,
    use: (ByteArray, Int) -> Unit,
) {
    val block = ByteArray(BLOCK)
    var rest = size
    while (rest > 0) {
        val count = read(block, 0, minOf(BLOCK.toLong(), rest).toInt())
        if (count < 0) break
        use(block, count)
        rest -= count
    }
}
