package pocketstep.app

import android.content.Context
import android.util.AttributeSet
import android.widget.FrameLayout

/** Where pictures are seen: rounded, and as high as its width and the screen allow where nobody says how high. */
class StageFrame
    @JvmOverloads
    constructor(
        context: Context,
        attributes: AttributeSet? = null,
    ) : FrameLayout(context, attributes) {
        init {
            clipToOutline = true
        }

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

        private companion object {
            const val OF_WIDTH = 0.8f
            const val OF_SCREEN = 0.45f
        }
    }
