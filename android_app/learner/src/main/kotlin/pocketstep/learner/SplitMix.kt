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

    private companion object {
        const val GAMMA = -0x61c8864680b583ebL // 0x9E3779B97F4A7C15
        const val FIRST = -0x40a7b892e31b1a47L // 0xBF58476D1CE4E5B9
        const val SECOND = -0x6b2fb644ecceee15L // 0x94D049BB133111EB
        const val HALF = 32
    }
}
