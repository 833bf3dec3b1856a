package pocketstep.app

import android.app.Activity
import android.view.View
import android.widget.TextView

/** What the app has to tell. */
class NoticePanel(
    activity: Activity,
    session: Session,
) : Panel {
    private val root = activity.findViewById<View>(R.id.notice)
    private val text = activity.findViewById<TextView>(R.id.notice_text)
    private val detail = activity.findViewById<TextView>(R.id.notice_detail)

    init {
        activity.findViewById<View>(R.id.notice_close).setOnClickListener { session.dismiss() }
    }

    override fun show(ui: UiState) {
        val notice = ui.notice
        root.isThere = notice != null
        if (notice == null) return
        text.changeTo(text.context.getString(notice.problem.sentence))
        detail.text = notice.detail
        detail.isThere = notice.detail.isNotEmpty()
    }
}

/** Only what is new is set, so that screen readers do not repeat the rest. */
fun TextView.changeTo(content: CharSequence) {
    if (text.toString() != content.toString()) text = content
}
