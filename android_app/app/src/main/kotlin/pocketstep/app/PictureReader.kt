package pocketstep.app

import android.content.ContentResolver
import android.content.Intent
import android.graphics.Bitmap
import android.graphics.BitmapFactory
import android.media.ExifInterface
import android.net.Uri
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.withContext
import java.io.IOException
import java.io.InputStream

/** Pictures that the user chose in the system's picker, which needs no permission. */
class PictureReader(
    private val resolver: ContentResolver,
) {
    /**
     * All of the chosen pictures, upright and no larger than needed.
     *
     * @throws PictureException if one can't be read.
     */
    suspend fun read(chosen: List<Uri>): List<Bitmap> = withContext(Dispatchers.IO) { chosen.map(::read) }

    private fun read(uri: Uri): Bitmap =
        try {
            val bounds = BitmapFactory.Options().apply { inJustDecodeBounds = true }
            open(uri) { BitmapFactory.decodeStream(it, null, bounds) }
            val options = BitmapFactory.Options().apply { inSampleSize = sampling(bounds.outWidth, bounds.outHeight) }
            val bitmap = open(uri) { BitmapFactory.decodeStream(it, null, options) } ?: throw IOException("$uri is no picture")
            turned(bitmap, rotation(uri))
        } catch (reason: IOException) {
            throw PictureException(reason)
        } catch (reason: SecurityException) {
            throw PictureException(reason) // the other app took its permission back
        }

    private fun <T> open(
        uri: Uri,
        use: (InputStream) -> T,
    ): T = (resolver.openInputStream(uri) ?: throw IOException("$uri can't be opened")).use(use)

    private fun rotation(uri: Uri): Int =
        try {
            val tag = ExifInterface.TAG_ORIENTATION
            when (open(uri) { ExifInterface(it) }.getAttributeInt(tag, ExifInterface.ORIENTATION_NORMAL)) {
                ExifInterface.ORIENTATION_ROTATE_90 -> 90
                ExifInterface.ORIENTATION_ROTATE_180 -> 180
                ExifInterface.ORIENTATION_ROTATE_270 -> 270
                else -> 0
            }
        } catch (_: IOException) {
            0 // a kind of picture without such data
        }

    companion object {
        private const val ENOUGH = 480 // pixels of the shorter side

        /** Powers of two, as the decoder wants them. */
        internal fun sampling(
            width: Int,
            height: Int,
        ): Int {
            var sample = 1
            while (minOf(width, height) / (2 * sample) >= ENOUGH) sample *= 2
            return sample
        }

        /** Asks the system's picker for pictures. */
        fun request(many: Boolean): Intent =
            Intent(Intent.ACTION_GET_CONTENT)
                .addCategory(Intent.CATEGORY_OPENABLE)
                .setType("image/*")
                .putExtra(Intent.EXTRA_ALLOW_MULTIPLE, many)

        /** What was chosen; nothing if the picker was left. */
        fun chosen(result: Intent?): List<Uri> {
            val clip = result?.clipData ?: return listOfNotNull(result?.data)
            return List(clip.itemCount) { clip.getItemAt(it).uri }
        }
    }
}
