package pocketstep.app

import android.Manifest
import android.app.Activity
import android.content.Intent
import android.content.pm.PackageManager
import android.net.Uri
import android.provider.Settings

/** The camera's permission: asked for when the user wants it, after a sentence that says what for. */
class CameraAccess(
    private val activity: Activity,
    private val exists: Boolean,
) {
    /** Whether the camera may be used; [REFUSED] for good, so that only the settings help. */
    enum class State { NONE, GRANTED, ASKABLE, REFUSED }

    private val settings = activity.getSharedPreferences("settings", Activity.MODE_PRIVATE)

    val state: State
        get() =
            when {
                !exists -> State.NONE
                activity.checkSelfPermission(PERMISSION) == PackageManager.PERMISSION_GRANTED -> State.GRANTED
                wasRefused && !activity.shouldShowRequestPermissionRationale(PERMISSION) -> State.REFUSED
                else -> State.ASKABLE
            }

    private var wasRefused: Boolean
        get() = settings.getBoolean(REFUSED, false)
        set(value) = settings.edit().putBoolean(REFUSED, value).apply()

    fun ask() = activity.requestPermissions(arrayOf(PERMISSION), REQUEST)

    /** What the user answered: whether to start the camera. */
    fun answered(results: IntArray): Boolean {
        val granted = results.firstOrNull() == PackageManager.PERMISSION_GRANTED
        if (results.isNotEmpty()) wasRefused = !granted
        return granted
    }

    fun openSettings() {
        val app = Uri.fromParts("package", activity.packageName, null)
        activity.startActivity(Intent(Settings.ACTION_APPLICATION_DETAILS_SETTINGS, app))
    }

    companion object {
        const val REQUEST = 1
        private const val PERMISSION = Manifest.permission.CAMERA
        private const val REFUSED = "camera_refused"
    }
}
