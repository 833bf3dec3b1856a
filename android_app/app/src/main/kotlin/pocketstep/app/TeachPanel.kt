package pocketstep.app

import android.app.Activity
import android.graphics.Bitmap
import android.text.Editable
import android.text.TextWatcher
import android.view.LayoutInflater
import android.view.View
import android.view.ViewGroup
import android.widget.Button
import android.widget.EditText
import android.widget.ImageButton
import android.widget.ProgressBar
import android.widget.TextView

/** A name, some pictures, and what is still missing. */
class TeachPanel(
    activity: Activity,
    private val session: Session,
    onGallery: () -> Unit,
) : Panel {
    private val root = activity.findViewById<View>(R.id.teach)
    private val name = activity.findViewById<EditText>(R.id.teach_name)
    private val strip = activity.findViewById<View>(R.id.teach_strip)
    private val shots = activity.findViewById<ViewGroup>(R.id.teach_shots)
    private val count = activity.findViewById<TextView>(R.id.teach_count)
    private val bar = activity.findViewById<ProgressBar>(R.id.teach_bar)
    private val needs = activity.findViewById<TextView>(R.id.teach_needs)
    private val learn = activity.findViewById<Button>(R.id.learn)
    private val wording = Wording(activity)
    private var shown = emptyList<Bitmap>()

    init {
        name.addTextChangedListener(Typed())
        learn.setOnClickListener { session.learn() }
        activity.findViewById<View>(R.id.teach_gallery).setOnClickListener { onGallery() }
        activity.findViewById<View>(R.id.teach_cancel).setOnClickListener { session.watch() }
    }

    override fun show(ui: UiState) {
        val teaching = ui.mode as? Mode.Teaching
        root.isThere = teaching != null
        if (teaching == null) return
        if (name.text.toString() != teaching.name) name.setText(teaching.name)
        show(teaching.shots)
        val context = root.context
        val number = teaching.shots.size
        count.changeTo(context.getString(R.string.teach_shots, number, maxOf(number, Teacher.GOOD_SHOTS)))
        bar.progress = onBar(number / Teacher.GOOD_SHOTS.toDouble())
        val missing = Teacher.FEWEST_SHOTS - number
        needs.changeTo(
            when {
                missing > 0 -> wording.count(R.plurals.teach_missing, missing)
                teaching.name.isBlank() -> context.getString(R.string.teach_needs_name)
                else -> context.getString(R.string.teach_enough)
            },
        )
        learn.isEnabled = missing <= 0 && teaching.name.isNotBlank()
        learn.setText(if (ui.facts.whileCharging) R.string.teach_later else R.string.learn_more)
    }

    private fun show(pictures: List<Bitmap>) {
        strip.isThere = pictures.isNotEmpty()
        if (pictures == shown) return
        shown = pictures
        shots.removeAllViews()
        pictures.forEachIndexed { index, picture ->
            val view = LayoutInflater.from(shots.context).inflate(R.layout.shot, shots, false) as ImageButton
            view.setImageBitmap(picture)
            view.clipToOutline = true
            view.contentDescription = shots.context.getString(R.string.teach_shot, index + 1)
            view.setOnClickListener { session.remove(picture) }
            shots.addView(view)
        }
    }

    private inner class Typed : TextWatcher {
        override fun beforeTextChanged(
            text: CharSequence,
            start: Int,
            count: Int,
            after: Int,
        ) = Unit

        override fun onTextChanged(
            text: CharSequence,
            start: Int,
            before: Int,
            count: Int,
        ) = session.rename(text.toString())

        override fun afterTextChanged(text: Editable) = Unit
    }
}
