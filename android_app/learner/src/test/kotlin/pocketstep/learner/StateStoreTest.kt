package pocketstep.learner

import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNull
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import java.io.IOException
import java.nio.file.AccessDeniedException
import java.nio.file.FileSystemException
import java.nio.file.Files
import java.nio.file.NoSuchFileException
import java.nio.file.Path

class StateStoreTest {
    @get:Rule
    val temporary = TemporaryFolder()

    private val folder: Path by lazy { temporary.root.toPath().resolve("state") }
    private val bundle = "b".repeat(64)

    private fun store() = StateStore(folder, bundle)

    private fun tensors(value: Float) = mapOf("head" to Tensor.of(FloatTensor.filled(intArrayOf(2, 3), value)))

    private fun names() = folder.toFile().list()!!.sorted()

    private fun value(snapshot: Snapshot?) = snapshot!!.tensors.getValue("head").toFloats().data[0]

    @Test
    fun savesAndLoads() {
        assertNull(store().load())
        val store = store()
        for (value in 1..2) assertEquals(value, store.save(tensors(value.toFloat()), mapOf("value" to value.toLong())).version)
        assertEquals(2f, value(store().load()))
        assertEquals(1f, value(store().loadVersion(1)))
        assertEquals(listOf(1L, 2L), store().infos().map { it["value"] })
        assertThrows(StateException::class.java) { store().loadVersion(3) }
    }

    @Test
    fun keepsTheLastTwoAndThoseThatAreAskedFor() {
        val store = store()
        for (value in 1..6) store.save(tensors(value.toFloat()), mapOf("keep" to listOf(1L, 4L)))
        assertEquals(listOf(1, 4, 5, 6).map { "snapshot-00000$it.safetensors" }, names())
        Files.write(folder.resolve(".snapshot-000007.safetensors.tmp"), ByteArray(3))
        store.save(tensors(7f), emptyMap())
        assertEquals(listOf("snapshot-000006.safetensors", "snapshot-000007.safetensors"), names())
    }

    @Test
    fun everyChangedByteFallsBackOrChangesNothing() {
        val store = store()
        for (value in 1..2) store.save(tensors(value.toFloat()), emptyMap())
        val newest = folder.resolve("snapshot-000002.safetensors")
        val good = Files.readAllBytes(newest)
        var fallbacks = 0
        for (at in good.indices) {
            Files.write(newest, good.copyOf().also { it[at] = (it[at].toInt() xor (1 shl at % 8)).toByte() })
            val again = store()
            val found = value(again.load())
            assertEquals(if (again.notes.isEmpty()) 2f else 1f, found)
            fallbacks += again.notes.size
        }
        assertTrue("$fallbacks of ${good.size}", fallbacks > good.size - 8) // only the header's padding may change
        Files.write(newest, good.copyOf(good.size / 2))
        assertEquals(3, store().apply { load() }.save(tensors(3f), emptyMap()).version)
    }

    @Test
    fun refusesWhatCannotBeReadBack() {
        val store = store()
        assertThrows(InputException::class.java) { store.save(tensors(Float.NaN), emptyMap()) }
        assertThrows(InputException::class.java) { store.save(tensors(1f), mapOf("a" to Double.NaN)) }
        assertThrows(InputException::class.java) { store.save(tensors(1f), mapOf("keep" to listOf("1"))) }
        assertEquals(emptyList<String>(), names())
    }

    @Test
    fun anotherBundlesStateIsRefused() {
        store().save(tensors(1f), emptyMap())
        val error = assertThrows(StateException::class.java) { StateStore(folder, "c".repeat(64)).load() }
        assertTrue(error.message!!.contains("belongs to another bundle"))
    }

    @Test
    fun linksAreNotFollowed() {
        val store = store()
        for (value in 1..2) store.save(tensors(value.toFloat()), emptyMap())
        val newest = folder.resolve("snapshot-000002.safetensors")
        val elsewhere = temporary.root.toPath().resolve("elsewhere")
        Files.move(newest, elsewhere)
        Files.createSymbolicLink(newest, elsewhere)
        assertEquals(1f, value(store().load()))
    }

    @Test
    fun whatIsTooLargeIsNotRead() {
        val store = store()
        store.save(tensors(1f), emptyMap())
        val size = Files.size(folder.resolve("snapshot-000001.safetensors"))
        Files.write(folder.resolve("snapshot-000002.safetensors"), ByteArray(size.toInt() + 1))
        val strict = StateStore(folder, bundle, size)
        assertEquals(1f, value(strict.load()))
        assertTrue(strict.notes.single().contains("more than the $size it can have"))
    }

    /** An older state must not take the place of one that could be read at another time. */
    @Test
    fun onlyWhatIsDamagedIsPassedOver() {
        fun failed(reason: Throwable) = mayBeIntact(StateException("can't be read", reason))
        val name = "snapshot-000001.safetensors"
        assertTrue(failed(AccessDeniedException(name)))
        assertTrue(failed(FileSystemException(name, null, "Too many open files")))
        assertTrue(failed(OutOfMemoryError()))
        assertFalse(failed(NoSuchFileException(name)))
        assertFalse(failed(FileSystemException(name, null, "Not a directory")))
        assertFalse(failed(IOException("Input/output error")))
        assertFalse(mayBeIntact(StateException("its digest differs", null)))
    }

    @Test
    fun plantedLinkIsNotWrittenThrough() {
        val victim = temporary.newFile("victim").toPath()
        Files.write(victim, "safe".toByteArray())
        Files.createSymbolicLink(temporary.root.toPath().resolve(".file.tmp"), victim)
        writeAtomically(temporary.root.toPath().resolve("file"), byteArrayOf(1))
        assertArrayEquals("safe".toByteArray(), Files.readAllBytes(victim))
        val error = assertThrows(StateException::class.java) { writeAtomically(folder.resolve("no/file"), ByteArray(1)) }
        assertTrue(error.message!!.contains("can't be written"))
    }

    @Test
    fun oneHolderAtATime() {
        val lock = FolderLock(folder)
        assertThrows(StateException::class.java) { FolderLock(folder) }
        lock.close()
        lock.close()
        FolderLock(folder).close()
        assertFalse(Files.exists(folder.resolve("other")))
    }
}
