package pocketstep.app

import android.app.Activity
import android.app.AlertDialog
import android.view.LayoutInflater
import android.view.View
import android.view.ViewGroup
import android.widget.Switch
import android.widget.TextView

/** What it knows and stores, and the switch for learning while charging. */
class FactsPanel(
    private val activity: Activity,
    private val session: Session,
    onCharging: (Boolean) -> Unit,
) : Panel {
    private val root = activity.findViewById<View>(R.id.facts)
    private val known = activity.findViewById<TextView>(R.id.facts_known)
    private val taught = activity.findViewById<ViewGroup>(R.id.taught)
    private val waiting = activity.findViewById<View>(R.id.waiting)
    private val waitingText = activity.findViewById<TextView>(R.id.waiting_text)
    private val storage = activity.findViewById<TextView>(R.id.facts_storage)
    private val charging = activity.findViewById<Switch>(R.id.charging)
    private val undo = activity.findViewById<View>(R.id.undo_last)
    private val wording = Wording(activity)
    private var shown = emptyMap<String, Int>()

    init {
        activity.findViewById<View>(R.id.learn_now).setOnClickListener { session.learnWaiting() }
        undo.setOnClickListener { session.undo() }
        charging.setOnClickListener { onCharging(charging.isChecked) }
    }

    override fun show(ui: UiState) {
        val facts = ui.facts
        root.isThere = ui.opening == Opening.Ready && ui.mode == Mode.Watching
        known.text =
            activity.getString(
                R.string.facts_line,
                wording.count(R.plurals.facts_known, facts.known.size),
                wording.count(R.plurals.facts_free, facts.freePlaces),
                facts.known.joinToString(", ", limit = MOST_NAMES, truncated = "…"),
            )
        show(facts.taught)
        waiting.isThere = facts.waiting > 0
        waitingText.text = wording.count(R.plurals.facts_waiting, facts.waiting)
        storage.text = activity.getString(R.string.facts_storage, wording.bytes(facts.bytes))
        charging.isChecked = facts.whileCharging
        undo.isThere = facts.canUndo
    }

    private fun show(classes: Map<String, Int>) {
        if (classes == shown) return
        shown = classes
        taught.removeAllViews()
        for ((name, count) in classes) {
            val row = LayoutInflater.from(activity).inflate(R.layout.taught_row, taught, false)
            row.findViewById<TextView>(R.id.taught_name).text = name
            row.findViewById<TextView>(R.id.taught_count).text = wording.count(R.plurals.facts_pictures, count)
            val forget = row.findViewById<View>(R.id.taught_forget)
            forget.contentDescription = activity.getString(R.string.forget_spoken, name)
            forget.setOnClickListener { ask(name) }
            taught.addView(row)
        }
    }

    private fun ask(name: String) {
        AlertDialog
            .Builder(activity)
            .setMessage(activity.getString(R.string.forget_ask, name))
            .setPositiveButton(R.string.forget) { _, _ -> session.forget(name) }
            .setNegativeButton(R.string.cancel, null)
            .show()
    }

    private companion object {
        const val MOST_NAMES = 24
    }
}
