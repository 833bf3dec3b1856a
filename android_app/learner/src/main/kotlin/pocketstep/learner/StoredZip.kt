package pocketstep.learner

import java.io.FilterInputStream
import java.io.IOException
import java.io.InputStream
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.channels.Channels
import java.nio.channels.FileChannel
import java.nio.file.Path
import java.nio.file.StandardOpenOption
import java.util.zip.CRC32

/**
 * Reads zips of stored entries without believing them. `java.util.zip` hides entries of one name, and takes an entry's
 * kind and place from either of its two headers; here both must agree, and every entry of the directory is shown.
 */
internal object StoredZip {
    class Entry(
        val name: String,
        val size: Long,
        val packedSize: Long,
        val method: Int,
        val flags: Int,
        val crc: Long,
        val attributes: Long,
        val offset: Long,
    ) {
        val isStored: Boolean get() = method == 0 && size == packedSize

        /** Neither a link, a folder, nor anything else that Unix attributes can say. */
        val isPlainFile: Boolean get() = (attributes ushr UNIX_SHIFT and KIND_MASK) in listOf(0L, REGULAR_FILE)
    }

    fun entries(path: Path): List<Entry> = FileChannel.open(path, StandardOpenOption.READ).use { directory(it, path) }

    /** An entry's content; its end raises `IOException` if the checksum differs. */
    fun open(
        path: Path,
        entry: Entry,
    ): InputStream {
        val channel = FileChannel.open(path, StandardOpenOption.READ)
        try {
            if (entry.flags and (ENCRYPTED or PATCHED or STRONG) != 0) throw IOException("it is encrypted or patched")
            val header = channel.part(entry.offset, LOCAL_BYTES)
            if (header.getInt(0) != LOCAL_MAGIC) throw IOException("an entry does not begin where it should")
            val nameBytes = header.unsignedShort(26)
            val name = channel.part(entry.offset + LOCAL_BYTES, nameBytes)
            if (String(ByteArray(nameBytes).also { name.get(it) }, Charsets.UTF_8) != entry.name) {
                throw IOException("an entry's names differ")
            }
            val start = entry.offset + LOCAL_BYTES + nameBytes + header.unsignedShort(28)
            if (start + entry.packedSize > channel.size()) throw IOException("an entry is cut")
            channel.position(start)
            return Checked(Channels.newInputStream(channel), entry)
        } catch (reason: IOException) {
            channel.close()
            throw reason
        }
    }

    /** The end of the directory must be the file's last bytes: then there is only one, and it is small. */
    private fun directory(
        channel: FileChannel,
        path: Path,
    ): List<Entry> {
        val tailBytes = minOf(channel.size(), (END_BYTES + LOCATOR_BYTES).toLong()).toInt()
        val tail = channel.part(channel.size() - tailBytes, tailBytes)
        val at = tailBytes - END_BYTES
        if (at < 0 || tail.getInt(at) != END_MAGIC || tail.unsignedShort(at + 20) != 0) {
            throw BundleException("$path is no intact zip, or has a comment. Fetch the bundle again.")
        }
        if (at == LOCATOR_BYTES && tail.getInt(0) == LOCATOR_MAGIC) {
            throw BundleException("$path is a zip of the 64-bit kind. Zip the bundle again without that.")
        }
        val count = tail.unsignedShort(at + 10)
        val size = tail.unsignedInt(at + 12)
        val disks = tail.getInt(at + 4)
        if (disks != 0 || tail.unsignedShort(at + 8) != count || count > MAX_FILES || size > MAX_DIRECTORY) {
            throw BundleException(
                "$path claims $count files and $size bytes of names; at most $MAX_FILES and $MAX_DIRECTORY are " +
                    "read. Fetch the bundle again.",
            )
        }
        val claimed = tail.unsignedInt(at + 16)
        val start = channel.size() - END_BYTES - size
        val before = start - claimed // bytes in front of the archive
        if (start < 0 || before < 0) throw IOException("its directory lies outside of it")
        val bytes = channel.part(start, size.toInt())
        val result = ArrayList<Entry>()
        while (bytes.remaining() > 0) result.add(entry(bytes, before))
        if (result.size != count) throw IOException("its directory has ${result.size} entries, not $count")
        return result
    }

    private fun entry(
        bytes: ByteBuffer,
        before: Long,
    ): Entry {
        val at = bytes.position()
        if (bytes.remaining() < CENTRAL_BYTES || bytes.getInt(at) != CENTRAL_MAGIC) {
            throw IOException("its directory is damaged")
        }
        val nameBytes = bytes.unsignedShort(at + 28)
        val end = at + CENTRAL_BYTES + nameBytes + bytes.unsignedShort(at + 30) + bytes.unsignedShort(at + 32)
        if (end > bytes.limit()) throw IOException("its directory is cut")
        bytes.position(at + CENTRAL_BYTES)
        val name = decodeUtf8(ByteArray(nameBytes).also { bytes.get(it) }) ?: throw IOException("a name is not UTF-8")
        bytes.position(end)
        return Entry(
            name,
            size = bytes.unsignedInt(at + 24),
            packedSize = bytes.unsignedInt(at + 20),
            method = bytes.unsignedShort(at + 10),
            flags = bytes.unsignedShort(at + 8),
            crc = bytes.unsignedInt(at + 16),
            attributes = bytes.unsignedInt(at + 38),
            offset = bytes.unsignedInt(at + 42) + before,
        )
    }

    private fun FileChannel.part(
        start: Long,
        count: Int,
    ): ByteBuffer {
        if (start < 0 || start + count > size()) throw IOException("it is cut")
        val buffer = ByteBuffer.allocate(count).order(ByteOrder.LITTLE_ENDIAN)
        var at = start
        while (buffer.hasRemaining()) {
            val read = read(buffer, at)
            if (read < 0) throw IOException("it is cut")
            at += read
        }
        buffer.flip()
        return buffer
    }

    private fun ByteBuffer.unsignedShort(at: Int): Int = getShort(at).toInt() and 0xFFFF

    private fun ByteBuffer.unsignedInt(at: Int): Long = getInt(at).toLong() and 0xFFFFFFFFL

    private class Checked(
        inner: InputStream,
        private val entry: Entry,
    ) : FilterInputStream(inner) {
        private val checksum = CRC32()
        private var rest = entry.size

        override fun read(): Int {
            val one = ByteArray(1)
            return if (read(one, 0, 1) < 0) -1 else one[0].toInt() and 0xFF
        }

        override fun read(
            bytes: ByteArray,
            offset: Int,
            length: Int,
        ): Int {
            if (rest == 0L) return -1
            val count = super.read(bytes, offset, minOf(length.toLong(), rest).toInt())
            if (count > 0) {
                checksum.update(bytes, offset, count)
                rest -= count
                if (rest == 0L && checksum.value != entry.crc) throw IOException("${entry.name} has changed bytes")
            }
            return count
        }

        override fun skip(count: Long): Long = 0

        override fun markSupported(): Boolean = false
    }

    private const val END_MAGIC = 0x06054b50
    private const val CENTRAL_MAGIC = 0x02014b50
    private const val LOCAL_MAGIC = 0x04034b50
    private const val LOCATOR_MAGIC = 0x07064b50
    private const val END_BYTES = 22
    private const val LOCATOR_BYTES = 20
    private const val MAX_FILES = 256
    private const val MAX_DIRECTORY = 1 shl 17
    private const val CENTRAL_BYTES = 46
    private const val LOCAL_BYTES = 30
    private const val ENCRYPTED = 0x1
    private const val PATCHED = 0x20
    private const val STRONG = 0x40
    private const val UNIX_SHIFT = 16
    private const val KIND_MASK = 0xF000L
    private const val REGULAR_FILE = 0x8000L
}
