package pocketstep.app

import android.app.Activity
import android.view.View
import android.widget.Button
import android.widget.ImageView
import android.widget.TextView

/** The camera's or a chosen picture, or what is in the way of seeing. */
class StagePanel(
    activity: Activity,
    private val camera: CameraAccess,
    private val actions: Actions,
) : Panel {
    /** What the buttons over the picture do. */
    interface Actions {
        fun retry()

        fun choosePictures()

        fun shoot()

        fun backToCamera()
    }

    private val view = activity.findViewById<View>(R.id.camera)
    private val picture = activity.findViewById<ImageView>(R.id.picture)
    private val corners = activity.findViewById<View>(R.id.corners)
    private val veil = activity.findViewById<View>(R.id.veil)
    private val text = activity.findViewById<TextView>(R.id.veil_text)
    private val button = activity.findViewById<Button>(R.id.veil_button)
    private val live = activity.findViewById<View>(R.id.live)
    private val shutter = activity.findViewById<View>(R.id.shutter)
    private val gallery = activity.findViewById<View>(R.id.gallery)

    init {
        gallery.setOnClickListener { actions.choosePictures() }
        shutter.setOnClickListener { actions.shoot() }
        live.setOnClickListener { actions.backToCamera() }
    }

    override fun show(ui: UiState) {
        val isBroken = ui.opening is Opening.Failed
        val sees = !isBroken && (ui.picture != null || camera.state == CameraAccess.State.GRANTED)
        view.isThere = !isBroken && ui.picture == null && camera.state == CameraAccess.State.GRANTED
        picture.isThere = ui.picture != null
        picture.setImageBitmap(ui.picture)
        corners.isThere = sees
        live.isThere = ui.picture != null && camera.state != CameraAccess.State.NONE
        shutter.isThere = sees && ui.mode is Mode.Teaching
        gallery.isThere = !isBroken && ui.mode !is Mode.Learning
        veil.isThere = !sees
        if (ui.opening is Opening.Failed) {
            veil(ui.opening.problem.sentence, R.string.try_again, actions::retry)
        } else if (!sees) {
            explain()
        }
    }

    private fun explain() =
        when (camera.state) {
            CameraAccess.State.NONE -> veil(R.string.camera_none, R.string.choose_picture, actions::choosePictures)
            CameraAccess.State.REFUSED -> veil(R.string.problem_camera_refused, R.string.camera_settings, camera::openSettings)
            else -> veil(R.string.camera_ask, R.string.camera_allow, camera::ask)
        }

    private fun veil(
        sentence: Int,
        label: Int,
        action: () -> Unit,
    ) {
        text.changeTo(text.context.getString(sentence))
        button.setText(label)
        button.setOnClickListener { action() }
    }
}
