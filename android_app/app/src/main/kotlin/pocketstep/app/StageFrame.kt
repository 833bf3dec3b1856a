package pocketstep.app

import android.content.Context
import android.graphics.Canvas
import android.graphics.Path
import android.util.AttributeSet
import android.widget.FrameLayout

/** Where pictures are seen: rounded, and as high as its width and the screen allow where nobody says how high. */
class StageFrame
    @JvmOverloads
    constructor(
        context: Context,
        attributes: AttributeSet? = null,
    ) : FrameLayout(context, attributes) {
        private val shape = Path()

        override fun onMeasure(
            widthMeasureSpec: Int,
            heightMeasureSpec: Int,
        ) {
            if (MeasureSpec.getMode(heightMeasureSpec) == MeasureSpec.EXACTLY) {
                return super.onMeasure(widthMeasureSpec, heightMeasureSpec)
            }
            val width = MeasureSpec.getSize(widthMeasureSpec)
            val most = (resources.displayMetrics.heightPixels * OF_SCREEN).toInt()
            val height = minOf((width * OF_WIDTH).toInt(), most)
            super.onMeasure(widthMeasureSpec, MeasureSpec.makeMeasureSpec(height, MeasureSpec.EXACTLY))
        }

        override fun onSizeChanged(
            width: Int,
            height: Int,
            oldWidth: Int,
            oldHeight: Int,
        ) {
            val radius = resources.getDimension(R.dimen.stage_radius)
            shape.rewind()
            shape.addRoundRect(0f, 0f, width.toFloat(), height.toFloat(), radius, radius, Path.Direction.CW)
        }

        override fun dispatchDraw(canvas: Canvas) {
            val saved = canvas.save()
            canvas.clipPath(shape)
            super.dispatchDraw(canvas)
            canvas.restoreToCount(saved)
        }

        private companion object {
            const val OF_WIDTH = 0.7f
            const val OF_SCREEN = 0.45f
        }
    }
