package pocketstep.learner

import android.graphics.Bitmap
import android.graphics.Canvas
import android.graphics.Matrix
import android.graphics.Paint

/**
 * Pictures of any size as a bundle's input: turned upright, the largest middle part of the input's proportions, scaled;
 * grey where the bundle takes grey.
 */
public object Pictures {
    private const val RED = 0.299f // shares of luminance, ITU-R BT.601
    private const val GREEN = 0.587f
    private const val BLUE = 0.114f
    private const val BYTE = 0xFF

    /**
     * @param rotation degrees clockwise that pictures have to be turned to stand upright: 0, 90, 180 or 270, as a
     * camera's frames or a photo's EXIF data say.
     * @throws InputException for another rotation, or a bitmap that was recycled.
     */
    @JvmStatic
    @JvmOverloads
    public fun of(
        bitmaps: List<Bitmap>,
        input: ImageInput,
        rotation: Int = 0,
    ): Images {
        if (rotation !in listOf(0, 90, 180, 270)) {
            throw InputException("a rotation of $rotation degrees was given; give 0, 90, 180 or 270")
        }
        val size = input.height * input.width * input.channels
        val pixels = FloatArray(bitmaps.size * size)
        bitmaps.forEachIndexed { index, bitmap -> write(fitted(bitmap, input, rotation), input, pixels, index * size) }
        return Images.ofFloats(pixels, bitmaps.size, input.height, input.width, input.channels)
    }

    private fun fitted(
        bitmap: Bitmap,
        input: ImageInput,
        rotation: Int,
    ): Bitmap {
        if (bitmap.isRecycled) throw InputException("a bitmap was recycled before it was used; keep it until then")
        val turned = rotation % 180 != 0
        val width = if (turned) bitmap.height else bitmap.width
        val height = if (turned) bitmap.width else bitmap.height
        var source = bitmap
        // A filter looks at four pixels only: large pictures are halved until these are enough.
        var scale = maxOf(input.width / width.toFloat(), input.height / height.toFloat())
        while (scale < 0.5f && source.width > 1 && source.height > 1) {
            source = Bitmap.createScaledBitmap(source, source.width / 2, source.height / 2, true)
            scale *= 2
        }
        val matrix = Matrix()
        matrix.postTranslate(-source.width / 2f, -source.height / 2f)
        matrix.postRotate(rotation.toFloat())
        matrix.postScale(scale, scale)
        matrix.postTranslate(input.width / 2f, input.height / 2f)
        val result = Bitmap.createBitmap(input.width, input.height, Bitmap.Config.ARGB_8888)
        Canvas(result).drawBitmap(source, matrix, Paint(Paint.FILTER_BITMAP_FLAG))
        return result
    }

    private fun write(
        bitmap: Bitmap,
        input: ImageInput,
        pixels: FloatArray,
        start: Int,
    ) {
        val colours = IntArray(input.width * input.height)
        bitmap.getPixels(colours, 0, input.width, 0, 0, input.width, input.height)
        var at = start
        for (colour in colours) {
            val red = (colour shr 16 and BYTE).toFloat()
            val green = (colour shr 8 and BYTE).toFloat()
            val blue = (colour and BYTE).toFloat()
            if (input.channels == 1) {
                pixels[at++] = RED * red + GREEN * green + BLUE * blue
            } else {
                pixels[at++] = red
                pixels[at++] = green
                pixels[at++] = blue
            }
        }
    }
}
