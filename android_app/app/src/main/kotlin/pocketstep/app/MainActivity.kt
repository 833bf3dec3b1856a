package pocketstep.app

import android.Manifest
import android.app.Activity
import android.content.ActivityNotFoundException
import android.content.Intent
import android.graphics.Rect
import android.os.Build
import android.os.Bundle
import android.view.View
import kotlinx.coroutines.Job
import kotlinx.coroutines.MainScope
import kotlinx.coroutines.cancel
import kotlinx.coroutines.delay
import kotlinx.coroutines.flow.collect
import kotlinx.coroutines.launch

/** The one screen: draws what the session says, and hands on what the user does. */
class MainActivity :
    Activity(),
    StagePanel.Actions {
    private val scope = MainScope()
    private val session by lazy { (application as DemoApplication).session }
    private val feed by lazy { CameraFeed(this, findViewById(R.id.camera), session::complain) }
    private val camera by lazy { CameraAccess(this, feed.exists) }
    private val panels by lazy { panels() }
    private var watching: Job? = null
    private var shown: Any? = null

    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        setContentView(R.layout.main)
        scope.launch { session.ui.collect(::show) }
    }

    override fun onStart() {
        super.onStart()
        session.enter()
        watch()
    }

    override fun onStop() {
        super.onStop()
        watching?.cancel()
        feed.stop()
        if (!isChangingConfigurations) session.leave()
    }

    override fun onDestroy() {
        super.onDestroy()
        scope.cancel()
    }

    private fun panels(): List<Panel> =
        listOf(
            StagePanel(this, camera, this),
            NoticePanel(this, session),
            WatchPanel(this, session),
            TeachPanel(this, session, ::choosePictures),
            LearningPanel(this, session),
            LessonPanel(this, session),
            FactsPanel(this, session, ::learnWhileCharging),
        )

    private fun show(ui: UiState) {
        panels.forEach { it.show(ui) }
        val news = ui.notice ?: (ui.mode as? Mode.Learned)?.lesson
        if (news != null && news != shown) bringIntoView(if (ui.notice != null) R.id.notice else R.id.lesson)
        shown = news
    }

    /** What is new is seen, however far the page was scrolled. */
    private fun bringIntoView(id: Int) {
        val view = findViewById<View>(id)
        view.post { view.requestRectangleOnScreen(Rect(0, 0, view.width, view.height)) }
    }

    /** Shows the session what the camera sees, some times a second. */
    private fun watch() {
        show(session.ui.value) // a permission may have changed meanwhile
        if (camera.state != CameraAccess.State.GRANTED) return
        feed.start()
        watching?.cancel()
        watching =
            scope.launch {
                while (true) {
                    delay(BETWEEN_FRAMES)
                    feed.frame()?.let(session::look)
                }
            }
    }

    override fun retry() = session.enter()

    override fun backToCamera() {
        session.show(null)
        if (camera.state != CameraAccess.State.GRANTED) camera.ask()
    }

    override fun shoot() {
        val shot = session.ui.value.picture ?: feed.frame() ?: return
        session.add(listOf(shot))
    }

    override fun choosePictures() {
        val many = session.ui.value.mode is Mode.Teaching
        try {
            startActivityForResult(PictureReader.request(many), if (many) SHOTS else PICTURE)
        } catch (reason: ActivityNotFoundException) {
            session.complain(PictureException(reason))
        }
    }

    @Deprecated("Activity's own way")
    override fun onActivityResult(
        request: Int,
        result: Int,
        data: Intent?,
    ) {
        val chosen = PictureReader.chosen(data)
        if (result != RESULT_OK || chosen.isEmpty()) return
        scope.launch {
            try {
                val pictures = PictureReader(contentResolver).read(chosen)
                if (request == SHOTS) session.add(pictures) else session.show(pictures.first())
            } catch (reason: PictureException) {
                session.complain(reason)
            }
        }
    }

    override fun onRequestPermissionsResult(
        request: Int,
        permissions: Array<String>,
        results: IntArray,
    ) {
        if (request != CameraAccess.REQUEST) return // learning goes on without its notification
        if (!camera.answered(results)) session.complain(Problem.CAMERA_REFUSED)
        watch()
    }

    private fun learnWhileCharging(on: Boolean) {
        session.learnWhileCharging(on)
        if (on && Build.VERSION.SDK_INT >= Build.VERSION_CODES.TIRAMISU) {
            requestPermissions(arrayOf(Manifest.permission.POST_NOTIFICATIONS), NOTIFICATIONS)
        }
    }

    private companion object {
        const val BETWEEN_FRAMES = 150L // ms
        const val PICTURE = 2
        const val SHOTS = 3
        const val NOTIFICATIONS = 4
    }
}
