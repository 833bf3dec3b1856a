package pocketstep.learner

/** N images of one size, (N, H, W, C), pixels from 0 to 255. */
public class Images private constructor(
    public val count: Int,
    public val height: Int,
    public val width: Int,
    public val channels: Int,
    private val values: Int,
    private val pixel: (Int) -> Float,
) {
    private val imageSize = height * width * channels

    init {
        if (values != count * imageSize || count < 0) {
            throw InputException("$values pixels given; $count images of ($height, $width, $channels) have ${count * imageSize}")
        }
    }

    /** The images as rows for a bundle that takes [input]; an InputException says what is wrong with them. */
    internal fun rowsFor(input: ImageInput): Rows {
        if (listOf(height, width, channels) != input.shape || count == 0) {
            throw InputException(
                "images of shape ($count, $height, $width, $channels) given; " +
                    "this bundle takes (N, ${input.shape.joinToString(", ")})",
            )
        }
        check()
        return Rows(count, input.shape) { row, into, at ->
            for (index in 0 until imageSize) into[at + index] = pixel(row * imageSize + index)
        }
    }

    private fun check() {
        var smallest = Float.MAX_VALUE
        var largest = -Float.MAX_VALUE
        for (index in 0 until values) {
            val value = pixel(index)
            if (!value.isFinite()) throw InputException("an image has NaN or infinite pixels; leave it out")
            smallest = minOf(smallest, value)
            largest = maxOf(largest, value)
        }
        if (smallest < 0 || largest > LARGEST) {
            throw InputException("pixels run from $smallest to $largest; the range is 0 to 255")
        }
    }

    public companion object {
        private const val LARGEST = 255f

        /** From unsigned bytes in the order N, H, W, C. */
        @JvmStatic
        public fun ofBytes(
            pixels: ByteArray,
            count: Int,
            height: Int,
            width: Int,
            channels: Int,
        ): Images = Images(count, height, width, channels, pixels.size) { (pixels[it].toInt() and 0xFF).toFloat() }

        /** From numbers of 0 to 255 in the order N, H, W, C. */
        @JvmStatic
        public fun ofFloats(
            pixels: FloatArray,
            count: Int,
            height: Int,
            width: Int,
            channels: Int,
        ): Images = Images(count, height, width, channels, pixels.size) { pixels[it] }
    }
}
