package pocketstep.app

import android.app.Activity
import android.view.View
import android.widget.ProgressBar
import android.widget.TextView

/** An update that runs. */
class LearningPanel(
    activity: Activity,
    session: Session,
) : Panel {
    private val root = activity.findViewById<View>(R.id.learning)
    private val title = activity.findViewById<TextView>(R.id.learning_title)
    private val bar = activity.findViewById<ProgressBar>(R.id.learning_bar)
    private val step = activity.findViewById<TextView>(R.id.learning_step)
    private val wording = Wording(activity)

    init {
        activity.findViewById<View>(R.id.stop).setOnClickListener { session.stop() }
    }

    override fun show(ui: UiState) {
        val learning = ui.mode as? Mode.Learning
        root.isThere = learning != null
        if (learning == null) return
        val context = root.context
        title.changeTo(
            if (learning.name.isEmpty()) {
                context.getString(
                    R.string.learning_waiting,
                )
            } else {
                context.getString(R.string.learning, learning.name)
            },
        )
        val progress = learning.progress
        bar.isIndeterminate = progress == null
        bar.progress = if (progress == null) 0 else onBar(progress.step / progress.steps.toDouble())
        step.text =
            if (progress == null) {
                context.getString(R.string.learning_begins)
            } else {
                context.getString(R.string.learning_step, progress.step, progress.steps, wording.seconds(progress.seconds))
            }
    }
}
