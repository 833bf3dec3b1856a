package pocketstep.app

import android.app.Activity
import android.view.LayoutInflater
import android.view.View
import android.view.ViewGroup
import android.widget.ProgressBar
import android.widget.TextView

/** What the picture shows, the likeliest in large letters. */
class WatchPanel(
    activity: Activity,
    session: Session,
) : Panel {
    private val root = activity.findViewById<View>(R.id.watch)
    private val caption = activity.findViewById<View>(R.id.watch_caption)
    private val top = activity.findViewById<TextView>(R.id.watch_top)
    private val share = activity.findViewById<TextView>(R.id.watch_share)
    private val bar = activity.findViewById<ProgressBar>(R.id.watch_bar)
    private val rows = activity.findViewById<ViewGroup>(R.id.guesses)
    private val teach = activity.findViewById<View>(R.id.teach_button)
    private val wording = Wording(activity)

    init {
        teach.setOnClickListener { session.teach() }
    }

    override fun show(ui: UiState) {
        val isReady = ui.opening == Opening.Ready
        root.isThere = ui.mode == Mode.Watching && ui.opening !is Opening.Failed
        caption.isThere = ui.guesses.isNotEmpty()
        teach.isEnabled = isReady
        val likeliest = ui.guesses.firstOrNull()
        top.changeTo(likeliest?.name ?: top.context.getString(if (isReady) R.string.see_nothing else R.string.opening))
        share.isThere = likeliest != null
        bar.isThere = likeliest != null
        if (likeliest != null) {
            share.text = wording.percent(likeliest.probability.toDouble())
            bar.progress = onBar(likeliest.probability.toDouble())
        }
        val others = ui.guesses.drop(1)
        while (rows.childCount < others.size) LayoutInflater.from(rows.context).inflate(R.layout.guess_row, rows)
        for (index in 0 until rows.childCount) show(rows.getChildAt(index), others.getOrNull(index))
    }

    private fun show(
        row: View,
        guess: Guess?,
    ) {
        row.isThere = guess != null
        if (guess == null) return
        val share = wording.percent(guess.probability.toDouble())
        row.findViewById<TextView>(R.id.guess_name).text = guess.name
        row.findViewById<TextView>(R.id.guess_share).text = share
        row.findViewById<ProgressBar>(R.id.guess_bar).progress = onBar(guess.probability.toDouble())
        row.contentDescription = row.context.getString(R.string.guess, guess.name, share)
    }
}
