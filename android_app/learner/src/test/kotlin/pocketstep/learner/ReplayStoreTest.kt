package pocketstep.learner

import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import java.nio.file.Files

class ReplayStoreTest {
    @get:Rule
    val temporary = TemporaryFolder()

    private val shape = listOf(2, 2, 3)
    private val slots = 4

    private fun store(maxBytes: Long = 1L shl 30) = ReplayStore(temporary.root.toPath(), shape, slots, maxBytes)

    private fun samples(
        count: Int,
        classes: Int = 3,
    ): Samples {
        val hasSoft = BooleanArray(count) { it % 3 == 0 }
        return Samples(
            shape,
            slots,
            ByteArray(count * 12) { (it * 31 % 251 - 125).toByte() },
            IntArray(count) { it % classes },
            FloatArray(count * slots) { if (hasSoft[it / slots]) it * 0.25f else 0f },
            hasSoft,
            BooleanArray(count) { it % 4 == 0 },
            ByteArray(count) { Samples.DEVICE },
            BooleanArray(count) { it % 5 == 0 },
        )
    }

    private fun assertSame(
        expected: Samples,
        found: Samples,
    ) {
        assertArrayEquals(expected.latents, found.latents)
        assertArrayEquals(expected.labels, found.labels)
        assertArrayEquals(expected.softTargets, found.softTargets, 0f)
        assertArrayEquals(expected.heldBack, found.heldBack)
        assertArrayEquals(expected.pending, found.pending)
    }

    @Test
    fun whatWasWrittenIsRead() {
        val first = samples(17)
        val second = samples(5)
        val chunks = store().append(first) + store().append(second)
        val all = first + second
        assertSame(all, store().recover(chunks, all.flags()).samples)
        assertEquals(chunks, Chunk.listOf(mapOf("chunks" to chunks.map(Chunk::toInfo))))
        assertEquals(emptyList<Chunk>(), store().append(Samples.empty(shape, slots)))
        assertThrows(StateException::class.java) { store().recover(chunks, first.flags()) }
    }

    @Test
    fun damageIsNoticed() {
        val samples = samples(9)
        val chunk = store().append(samples).single()
        val path = temporary.root.toPath().resolve(chunk.name)
        val good = Files.readAllBytes(path)
        for (at in good.indices step 7) {
            Files.write(path, good.copyOf().also { it[at] = (it[at].toInt() xor 4).toByte() })
            val found = store().recover(listOf(chunk), samples.flags())
            assertEquals(0, found.samples.size)
            assertTrue(found.notes.single().contains("9 samples are gone"))
        }
        Files.delete(path)
        assertEquals(emptyList<Chunk>(), store().recover(listOf(chunk), samples.flags()).chunks)
        for (wrong in listOf(chunk.toInfo() - "count", chunk.toInfo() + ("name" to "../up"), chunk.toInfo() + ("count" to 0L))) {
            assertThrows(StateException::class.java) { Chunk.listOf(mapOf("chunks" to listOf(wrong))) }
        }
    }

    @Test
    fun compactingKeepsPendingOnesAndClassesInBalance() {
        val samples = samples(600)
        val store = store(maxBytes = 16_000)
        assertTrue(store.overLimit(store.append(samples)))
        val (chunks, kept) = store.compact(samples)
        assertTrue(!store.overLimit(chunks))
        val counts = kept.labels.groupBy { it }.values.map { it.size }
        assertTrue("$counts", counts.max() - counts.min() <= 1)
        val share = kept.heldBack.count { it } / kept.size.toDouble()
        assertEquals(0.25, share, 0.05)
        assertSame(kept, store.recover(chunks, kept.flags()).samples)
        assertSame(kept, store.compact(samples).second)
        val python = "d79ed21d1d603737" // test_android_keeps_the_same_samples
        assertEquals(python, sha256().digest(kept.latents + ByteArray(kept.size) { kept.labels[it].toByte() }).hex().take(16))
        assertThrows(StateException::class.java) { store(maxBytes = 100).compact(samples) }
    }

    @Test
    fun garbageIsCollected() {
        val kept = store().append(samples(4))
        store().append(samples(5))
        temporary.newFile("latents-note.safetensors")
        store().collectGarbage(kept)
        assertEquals(setOf(kept.single().name, "latents-note.safetensors"), temporary.root.list()!!.toSet())
    }
}
