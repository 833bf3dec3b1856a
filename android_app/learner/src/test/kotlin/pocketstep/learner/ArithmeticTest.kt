package pocketstep.learner

import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test

class ArithmeticTest {
    /** The first draws of the published generator from seed 1234567. */
    @Test
    fun splitMixIsThePublishedOne() {
        val random = SplitMix(1234567)
        val expected = listOf("6457827717110365317", "3203168211198807973", "9817491932198370423", "4593380528125082431")
        assertEquals(expected, List(4) { java.lang.Long.toUnsignedString(random.next()) })
    }

    @Test
    fun drawsStayBelowTheirBound() {
        val random = SplitMix(-1)
        val counts = IntArray(5)
        repeat(5000) { counts[random.below(5)]++ }
        assertTrue(counts.all { it in 850..1150 })
    }

    @Test
    fun batchesAreBalancedByClass() {
        val labels = IntArray(100) { if (it < 95) 3 else 1 }
        val batches = Batches((0 until 100).toList().toIntArray(), labels, 32, true, SplitMix(7))
        val drawn = List(40) { batches.next() }.flatMap { it.toList() }
        assertEquals(40 * 32, drawn.size)
        assertTrue(drawn.count { labels[it] == 1 } in 540..740)
        assertEquals(5, Batches(intArrayOf(4, 5, 6, 7, 8), labels, 32, false, SplitMix(7)).next().size)
    }

    @Test
    fun quantilesInterpolate() {
        val values = floatArrayOf(4f, 1f, 3f, 2f)
        assertEquals(1f, quantile(values, 0.0))
        assertEquals(4f, quantile(values, 1.0))
        assertEquals(2.5f, quantile(values, 0.5))
        assertEquals(1.3f, quantile(values, 0.1))
        assertEquals(5f, quantile(floatArrayOf(5f), 0.3))
    }

    /** A (4, 6) tensor of two paths, two rows and three columns each, and one of paths along its columns alone. */
    @Test
    fun pathsLearnAtTheirOwnRate() {
        val paths = listOf(PathAxis("block", 0, 2), PathAxis("block", 1, 3), PathAxis("columns", 1, 1))
        val values = mapOf("block" to FloatTensor.zeros(intArrayOf(4, 6)), "columns" to FloatTensor.zeros(intArrayOf(3, 2)))
        val all = values + ("free" to FloatTensor.zeros(intArrayOf(2)))
        val masks = Masks.ofPaths(paths, all, all.keys.toList(), floatArrayOf(1f, 10f))
        val (first, second) = listOf(1f, 1f, 1f, 0f, 0f, 0f) to listOf(0f, 0f, 0f, 10f, 10f, 10f)
        assertEquals(first + first + second + second, masks.required("block").data.toList())
        assertEquals(listOf(1f, 10f, 1f, 10f, 1f, 10f), masks.required("columns").data.toList())
        assertEquals(listOf(1f, 1f), masks.required("free").data.toList())
    }

    @Test
    fun halvesBecomeFloats() {
        val halves = mapOf(0x3C00 to 1f, 0xC000 to -2f, 0x7BFF to 65504f, 0x0001 to 5.9604645e-8f, 0x7C00 to Float.POSITIVE_INFINITY)
        for ((half, float) in halves) assertEquals(float, halfToFloat(half.toShort()))
    }

    @Test
    fun rowsArePaddedWithZeros() {
        val rows = Rows.of(FloatTensor(intArrayOf(3, 2), floatArrayOf(1f, 2f, 3f, 4f, 5f, 6f)))
        assertArrayEquals(floatArrayOf(5f, 6f, 1f, 2f, 0f, 0f, 0f, 0f), rows.padded(intArrayOf(2, 0), 4).data, 0f)
    }
}
