package pocketstep.app

import android.Manifest
import android.app.Activity
import android.content.Intent
import android.net.Uri
import android.provider.Settings
import android.view.View
import android.widget.Button
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNotNull
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Test
import org.robolectric.Shadows.shadowOf
import org.robolectric.shadows.ShadowCameraCharacteristics
import org.robolectric.shadows.ShadowCameraManager
import pocketstep.learner.BundleException
import pocketstep.learner.CheckFailedException
import pocketstep.learner.Learner
import pocketstep.learner.MissingToolException
import pocketstep.learner.StateException
import java.io.ByteArrayOutputStream
import java.io.File

/** What may be missing or refused: bundle, camera, permission, picture. */
class AccessTest : AppScene() {
    private fun View.shows(text: Int) = app.getString(text) in text()

    private fun page(activity: Activity): View = activity.findViewById(R.id.page)

    @Test
    fun aBuildWithoutBundleSaysSo() {
        val controller = start(AssetSource(app))
        until { ui.opening is Opening.Failed }
        val page = page(controller.get())
        until { page.shows(R.string.problem_no_bundle) }
        assertTrue(page.shows(R.string.try_again))
        assertTrue(page.findViewById<View>(R.id.teach_button).let { !it.isShown })
    }

    @Test
    fun everyErrorIsASentenceAndCanBeTriedAgain() {
        val reasons =
            mapOf(
                BundleException("cut") to Problem.BAD_BUNDLE,
                MissingToolException("abi") to Problem.NO_RUNTIME,
                CheckFailedException("memory") to Problem.NOT_NOW,
                StateException("damaged") to Problem.STATE,
                IllegalStateException("?") to Problem.OTHER,
            )
        val source = FailingSource(temporary.root)
        val controller = start(source)
        for ((reason, problem) in reasons) {
            source.reason = reason
            controller.get().findViewById<Button>(R.id.veil_button).performClick()
            until { (ui.opening as? Opening.Failed)?.problem == problem }
            until { page(controller.get()).shows(problem.sentence) }
        }
    }

    /** While the worker has the state; its message is the library's. */
    @Test
    fun aStateInUseIsToldApart() {
        val digits = DigitsSource(temporary.root)
        val other = kotlinx.coroutines.runBlocking { digits.open() }
        start(digits)
        until { (ui.opening as? Opening.Failed)?.problem == Problem.IN_USE }
        other.close()
        session.enter()
        until { ui.opening == Opening.Ready }
    }

    /** The worker can have the state when the screen is gone, not before. */
    @Test
    fun theStateIsGivenBackWhenTheScreenIsGone() {
        val digits = DigitsSource(temporary.root)
        val controller = start(digits)
        until { ui.opening == Opening.Ready }
        controller.pause().stop()
        var other: Learner? = null
        until {
            try {
                other = kotlinx.coroutines.runBlocking { digits.open() }
            } catch (_: StateException) {
                return@until false
            }
            true
        }
        checkNotNull(other).close()
        controller.restart().start().resume()
        until { ui.opening == Opening.Ready }
        session.show(Digits.all().first())
        until { ui.guesses.isNotEmpty() }
    }

    @Test
    fun withoutCameraPicturesAreOffered() {
        val controller = startReady()
        assertTrue(page(controller.get()).shows(R.string.camera_none))
        controller.get().findViewById<Button>(R.id.veil_button).performClick()
        val asked = shadowOf(controller.get()).nextStartedActivityForResult
        assertEquals(Intent.ACTION_GET_CONTENT, asked.intent.action)
        val uri = Uri.parse("content://pictures/7")
        val bytes = ByteArrayOutputStream()
        Digits.all().first().compress(android.graphics.Bitmap.CompressFormat.PNG, 100, bytes)
        shadowOf(app.contentResolver).registerInputStreamSupplier(uri) { bytes.toByteArray().inputStream() }
        shadowOf(controller.get()).receiveResult(asked.intent, Activity.RESULT_OK, Intent().setData(uri))
        until { ui.guesses.isNotEmpty() }
        assertNotNull(ui.picture)
    }

    @Test
    fun aFileThatIsNoPictureIsRefusedKindly() {
        val controller = startReady()
        session.teach()
        controller.get().choosePictures()
        val asked = shadowOf(controller.get()).nextStartedActivityForResult
        assertTrue(asked.intent.getBooleanExtra(Intent.EXTRA_ALLOW_MULTIPLE, false))
        val uri = Uri.parse("content://pictures/none")
        shadowOf(app.contentResolver).registerInputStreamSupplier(uri) { "no picture".byteInputStream() }
        shadowOf(controller.get()).receiveResult(asked.intent, Activity.RESULT_OK, Intent().setData(uri))
        until { ui.notice?.problem == Problem.PICTURE }
        assertTrue(ui.mode is Mode.Teaching)
    }

    @Test
    fun theCameraIsAskedForWithAReasonAndARefusalIsRespected() {
        val manager = app.getSystemService(android.hardware.camera2.CameraManager::class.java)
        val camera = org.robolectric.shadow.api.Shadow.extract<ShadowCameraManager>(manager)
        camera.addCamera("0", ShadowCameraCharacteristics.newCameraCharacteristics())
        val controller = startReady()
        val activity = controller.get()
        assertTrue(page(activity).shows(R.string.camera_ask))
        assertNull(shadowOf(activity).lastRequestedPermission) // not before the user wants it
        activity.findViewById<Button>(R.id.veil_button).performClick()
        val request = shadowOf(activity).lastRequestedPermission
        assertEquals(listOf(Manifest.permission.CAMERA), request.requestedPermissions.toList())
        activity.onRequestPermissionsResult(request.requestCode, request.requestedPermissions, intArrayOf(-1))
        until { page(activity).shows(R.string.camera_settings) }
        assertEquals(Problem.CAMERA_REFUSED, ui.notice?.problem)
        activity.findViewById<Button>(R.id.veil_button).performClick()
        assertEquals(Settings.ACTION_APPLICATION_DETAILS_SETTINGS, shadowOf(activity).nextStartedActivity.action)
        assertTrue(activity.findViewById<View>(R.id.gallery).isShown)
    }

    private class FailingSource(
        folder: File,
    ) : LearnerSource {
        var reason: Exception = BundleException("not yet")
        override val state = folder

        override suspend fun open(): Learner = throw reason
    }
}
