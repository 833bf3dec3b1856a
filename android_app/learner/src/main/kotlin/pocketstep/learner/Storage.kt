package pocketstep.learner

import java.io.Closeable
import java.io.IOException
import java.nio.ByteBuffer
import java.nio.channels.FileChannel
import java.nio.channels.FileLock
import java.nio.file.Files
import java.nio.file.LinkOption
import java.nio.file.NoSuchFileException
import java.nio.file.Path
import java.nio.file.StandardCopyOption
import java.nio.file.StandardOpenOption
import java.nio.file.attribute.BasicFileAttributes
import java.util.concurrent.ConcurrentHashMap

/**
 * Replaces a file by new content, so that after a crash it holds the old or the new, and never a mixture: written
 * beside it as `.NAME.tmp`, flushed to the disk, renamed over it; then the folder is flushed.
 *
 * @throws StateException if it can't be written; the temporary is removed.
 */
internal fun writeAtomically(
    path: Path,
    data: ByteArray,
) {
    val temporary = path.resolveSibling(".${path.fileName}.tmp")
    try {
        try {
            Files.deleteIfExists(temporary)
            writeNew(temporary, data)
            Files.move(temporary, path, StandardCopyOption.ATOMIC_MOVE)
        } catch (reason: Throwable) {
            deleteQuietly(temporary)
            throw reason
        }
    } catch (reason: IOException) {
        throw StateException(
            "$path can't be written (${reasonOf(reason)}). Free some space or make its folder writable, then try again.",
            reason,
        )
    }
    flushFolder(path.parent)
}

/** Reads a plain file whole, its size checked first; links, folders and devices are refused. */
internal fun readRegular(
    path: Path,
    mostBytes: Long,
    what: String,
    failure: Failure = asState,
): ByteArray {
    try {
        val found = Files.readAttributes(path, BasicFileAttributes::class.java, LinkOption.NOFOLLOW_LINKS)
        if (!found.isRegularFile) {
            throw failure("$what is a link or no plain file, which is not trusted. Put the file itself there.", null)
        }
        if (found.size() > mostBytes) {
            throw failure(
                "$what has ${found.size()} bytes, more than the $mostBytes it can have: it was changed. " +
                    "Restore it from a copy.",
                null,
            )
        }
        return Files.newInputStream(path, LinkOption.NOFOLLOW_LINKS).use { it.readAtMost(found.size().toInt()) }
    } catch (reason: IOException) {
        throw failure("$what can't be read (${reasonOf(reason)}). Check that it is there.", reason)
    } catch (reason: OutOfMemoryError) {
        throw failure("$what does not fit into the memory that is free. End other programs.", reason)
    }
}

/** Whether [readRegular] failed for a reason outside of the file: permissions, memory, too many open files. */
internal fun mayBeIntact(problem: Throwable): Boolean =
    when (val reason = problem.cause) {
        is OutOfMemoryError -> true
        is NoSuchFileException -> false
        is IOException -> DAMAGE.none { it in reasonOf(reason) }
        else -> false
    }

/** What the system says of a file that is gone, or that the disk does not give back. */
private val DAMAGE = listOf("Input/output error", "Not a directory", "symbolic link", "Structure needs cleaning")

/** Removes temporary files that interrupted writes left in a folder; call it under the folder's lock. */
internal fun removeLeftovers(folder: Path) {
    try {
        Files.newDirectoryStream(folder, ".*.tmp").use { found -> found.forEach(::deleteQuietly) }
    } catch (_: IOException) {
        return // the next write removes them
    }
}

internal fun deleteQuietly(path: Path) {
    try {
        Files.deleteIfExists(path)
    } catch (_: IOException) {
        return // a leftover does no harm: the next write removes it
    }
}

/**
 * Keeps others out of a folder until it is closed. The operating system drops the lock when the process ends, however
 * it ends, so a crash leaves nothing to clean up.
 *
 * @throws StateException if another holder has it or the folder can't be written.
 */
internal class FolderLock(
    folder: Path,
) : Closeable {
    private val key: Path
    private val channel: FileChannel

    init {
        try {
            Files.createDirectories(folder)
            key = folder.toRealPath()
        } catch (reason: IOException) {
            throw unusable(folder, reason)
        }
        // Closing a second descriptor of a locked file would drop this process's lock, so it is never opened twice.
        if (!held.add(key)) throw inUse(folder, null)
        var opened: FileChannel? = null
        try {
            opened = FileChannel.open(key.resolve(LOCK_NAME), StandardOpenOption.WRITE, StandardOpenOption.CREATE)
            val lock: FileLock? = opened.tryLock()
            if (lock == null) throw inUse(folder, null)
            channel = opened
        } catch (reason: Exception) {
            opened?.close()
            held.remove(key)
            throw if (reason is IOException) unusable(folder, reason) else reason
        }
    }

    override fun close() {
        if (!channel.isOpen) return
        channel.close() // closing releases the lock
        held.remove(key)
    }

    private companion object {
        const val LOCK_NAME = ".lock"
        val held: MutableSet<Path> = ConcurrentHashMap.newKeySet()

        fun unusable(
            folder: Path,
            reason: IOException,
        ) = StateException(
            "The folder $folder can't be used (${reasonOf(reason)}). Make it writable or choose another state folder.",
            reason,
        )

        fun inUse(
            folder: Path,
            reason: Throwable?,
        ) = StateException(
            "The folder $folder is in use by another process. Wait until that one ends, or choose another state folder.",
            reason,
        )
    }
}

private fun writeNew(
    path: Path,
    data: ByteArray,
) {
    FileChannel.open(path, StandardOpenOption.WRITE, StandardOpenOption.CREATE_NEW).use { channel ->
        val rest = ByteBuffer.wrap(data)
        while (rest.hasRemaining()) channel.write(rest)
        channel.force(true)
    }
}

/** Flushes a rename to the disk, where the system and the file system can do that for a folder. */
private fun flushFolder(folder: Path) {
    try {
        FileChannel.open(folder, StandardOpenOption.READ).use { it.force(true) }
    } catch (_: IOException) {
        return // the new file is in place and complete
    }
}
