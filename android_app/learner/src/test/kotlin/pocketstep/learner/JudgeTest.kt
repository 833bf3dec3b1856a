package pocketstep.learner

import org.junit.Assert.assertEquals
import org.junit.Assert.assertNotNull
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Test

class JudgeTest {
    private fun verdict(
        old: Double,
        new: Double = Double.NaN,
        sure: Double = 0.5,
        count: Int = 100,
        byClass: Map<Int, Share> = emptyMap(),
    ) = Verdict(old, new, sure, count, byClass)

    @Test
    fun lossesCountWhenLargerThanChance() {
        val accept = Accept(maxOldLoss = 0.03, maxClassLoss = 1.0)
        assertNull(verdict(0.845).refusal(verdict(0.9), accept)) // 0.03, and a standard error of 0.03
        assertNotNull(verdict(0.835).refusal(verdict(0.9), accept))
        assertNotNull(verdict(0.845).refusal(verdict(0.9, count = 10_000), accept))
        assertNull(verdict(Double.NaN).refusal(verdict(0.9), accept))
        assertNull(verdict(0.1).refusal(verdict(Double.NaN, count = 0), accept))
    }

    @Test
    fun oneClassCanRefuse() {
        val accept = Accept(maxOldLoss = 1.0, maxClassLoss = 0.5)
        val before = verdict(1.0, byClass = mapOf(0 to Share(1.0, 9), 1 to Share(1.0, 9)))
        val after = verdict(0.7, byClass = mapOf(0 to Share(1.0, 9), 1 to Share(0.4, 9)))
        assertEquals("lost more than 50% on class 1 (100.0% to 40.0%)", after.refusal(before, accept))
        assertNull(verdict(0.7, byClass = mapOf(0 to Share(1.0, 9), 1 to Share(0.5, 9))).refusal(before, accept))
        assertNull(verdict(0.7, byClass = mapOf(0 to Share(1.0, 9))).refusal(before, accept))
    }

    @Test
    fun accuracyComesFirst() {
        assertTrue(verdict(0.9, 0.8) > verdict(0.8, 0.8, sure = 0.9))
        assertTrue(verdict(0.9, 0.8, sure = 0.6) > verdict(0.8, 0.9))
        assertEquals(0, verdict(Double.NaN, sure = Double.NaN).compareTo(verdict(Double.NaN, sure = Double.NaN)))
    }
}
