package pocketstep.app

import android.app.Activity
import android.view.View
import android.widget.ProgressBar
import android.widget.TextView

/** How an update went: before and after, what it cost, and the way back. */
class LessonPanel(
    activity: Activity,
    session: Session,
) : Panel {
    private val root = activity.findViewById<View>(R.id.lesson)
    private val title = activity.findViewById<TextView>(R.id.lesson_title)
    private val text = activity.findViewById<TextView>(R.id.lesson_text)
    private val new = activity.findViewById<View>(R.id.lesson_new)
    private val old = activity.findViewById<View>(R.id.lesson_old)
    private val cost = activity.findViewById<TextView>(R.id.lesson_cost)
    private val undo = activity.findViewById<View>(R.id.lesson_undo)
    private val wording = Wording(activity)

    init {
        activity.findViewById<View>(R.id.lesson_done).setOnClickListener { session.watch() }
        undo.setOnClickListener { session.undo() }
    }

    override fun show(ui: UiState) {
        val lesson = (ui.mode as? Mode.Learned)?.lesson
        root.isThere = lesson != null
        if (lesson == null) return
        val context = root.context
        title.changeTo(titleOf(lesson))
        text.setText(if (lesson.accepted) R.string.learned_text else R.string.not_learned_text)
        new.isThere = lesson.accepted
        old.isThere = lesson.accepted
        show(new, lesson.name.ifEmpty { context.getString(R.string.lesson_new) }, 0.0, lesson.newAfter)
        show(old, context.getString(R.string.lesson_old), lesson.oldBefore, lesson.oldAfter)
        cost.text =
            context.getString(
                R.string.lesson_cost,
                wording.seconds(lesson.seconds),
                wording.bytes(lesson.cost.bytes),
                wording.charge(lesson.cost.microampHours),
            )
        undo.isThere = lesson.accepted
    }

    private fun titleOf(lesson: Lesson): String =
        when {
            !lesson.accepted -> root.context.getString(R.string.not_learned)
            lesson.name.isEmpty() -> root.context.getString(R.string.learned_waiting)
            else -> root.context.getString(R.string.learned, lesson.name)
        }

    private fun show(
        row: View,
        name: String,
        before: Double,
        after: Double,
    ) {
        val (was, now) = wording.percent(before) to wording.percent(after)
        row.findViewById<TextView>(R.id.change_name).text = name
        row.findViewById<TextView>(R.id.change_figures).text =
            if (after.isNaN()) now else row.context.getString(R.string.lesson_change, was, now)
        row.findViewById<ProgressBar>(R.id.change_before).progress = onBar(before)
        row.findViewById<ProgressBar>(R.id.change_after).progress = onBar(after)
        row.contentDescription = row.context.getString(R.string.lesson_change_spoken, name, was, now)
    }
}
