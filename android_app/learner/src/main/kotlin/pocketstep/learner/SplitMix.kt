package pocketstep.learner

/** SplitMix64 (Steele, Lea and Flood 2014): the same draws on every device and in the Python package. */
internal class SplitMix(
    private var state: Long,
) {
    fun next(): Long {
        state += GAMMA
        var z = state
        z = (z xor (z ushr 30)) * FIRST
        z = (z xor (z ushr 27)) * SECOND
        return z xor (z ushr 31)
    }

    /** A number from 0 to [bound] - 1. */
    fun below(bound: Int): Int = (((next() ushr HALF) * bound) ushr HALF).toInt()

    /** 0 to [count] - 1 in random order (Fisher and Yates, from the last place down). */
    fun permutation(count: Int): IntArray {
        val result = IntArray(count) { it }
        for (last in count - 1 downTo 1) {
            val other = below(last + 1)
            result[last] = result[other].also { result[other] = result[last] }
        }
        return result
    }

    /** A number from 0 to below 1: the highest 24 bits of a draw. */
    fun uniform(): Float = (next() ushr 40).toFloat() * Math.scalb(1f, -24)

    private companion object {
        const val GAMMA = -0x61c8864680b583ebL // 0x9E3779B97F4A7C15
        const val FIRST = -0x40a7b892e31b1a47L // 0xBF58476D1CE4E5B9
        const val SECOND = -0x6b2fb644ecceee15L // 0x94D049BB133111EB
        const val HALF = 32
    }
}
