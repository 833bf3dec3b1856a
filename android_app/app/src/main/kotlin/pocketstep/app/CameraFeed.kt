package pocketstep.app

import android.annotation.SuppressLint
import android.content.Context
import android.graphics.Bitmap
import android.graphics.SurfaceTexture
import android.hardware.camera2.CameraAccessException
import android.hardware.camera2.CameraCaptureSession
import android.hardware.camera2.CameraCharacteristics
import android.hardware.camera2.CameraDevice
import android.hardware.camera2.CameraManager
import android.hardware.camera2.CaptureRequest
import android.os.Handler
import android.os.Looper
import android.util.Size
import android.view.Surface
import android.view.TextureView

/** The camera's picture in a [TextureView]: the back camera, or another one where there is none. */
class CameraFeed(
    context: Context,
    private val view: TextureView,
    private val onProblem: (Problem) -> Unit,
) {
    private val manager = context.getSystemService(CameraManager::class.java)
    private val handler = Handler(Looper.getMainLooper())
    private var device: CameraDevice? = null
    private var natural = Size(1, 1)
    private var isWanted = false

    private val id: String? by lazy { findCamera() }

    /** Whether the device has a camera at all. */
    val exists: Boolean get() = id != null

    /** Shows the picture from now on; asks for nothing: the caller holds the permission. */
    fun start() {
        isWanted = true
        if (view.isAvailable) open()
        view.surfaceTextureListener = Listener()
    }

    fun stop() {
        isWanted = false
        device?.close()
        device = null
    }

    /** What the camera sees now, upright; null while it sees nothing. */
    fun frame(): Bitmap? {
        if (device == null || !view.isAvailable) return null
        val scale = FRAME / minOf(natural.width, natural.height).toFloat()
        val frame = view.getBitmap((natural.width * scale).toInt(), (natural.height * scale).toInt())
        return frame?.let { turned(it, turnOf(rotation())) }
    }

    private fun findCamera(): String? =
        try {
            val ids = manager.cameraIdList
            ids.firstOrNull { facing(it) == CameraCharacteristics.LENS_FACING_BACK } ?: ids.firstOrNull()
        } catch (_: CameraAccessException) {
            null // the same as no camera: the gallery works
        }

    private fun facing(id: String) = manager.getCameraCharacteristics(id).get(CameraCharacteristics.LENS_FACING)

    @SuppressLint("MissingPermission")
    private fun open() {
        val camera = id
        if (!isWanted || device != null || camera == null) return
        try {
            val size = chooseSize(camera)
            view.surfaceTexture?.setDefaultBufferSize(size.width, size.height)
            natural = if (sensor(camera) % HALF_TURN == 0) size else Size(size.height, size.width)
            fit()
            manager.openCamera(camera, Opened(), handler)
        } catch (_: CameraAccessException) {
            onProblem(Problem.CAMERA)
        } catch (_: SecurityException) {
            onProblem(Problem.CAMERA_REFUSED) // taken back in the settings meanwhile
        }
    }

    private fun sensor(id: String): Int = manager.getCameraCharacteristics(id).get(CameraCharacteristics.SENSOR_ORIENTATION) ?: 0

    private fun chooseSize(id: String): Size {
        val map = manager.getCameraCharacteristics(id).get(CameraCharacteristics.SCALER_STREAM_CONFIGURATION_MAP)
        return previewSize(map?.getOutputSizes(SurfaceTexture::class.java)?.toList().orEmpty())
    }

    private fun rotation(): Int = view.display?.rotation ?: Surface.ROTATION_0

    private fun fit() = view.setTransform(previewMatrix(Size(view.width, view.height), natural, turnOf(rotation())))

    @Suppress("DEPRECATION") // its successor is of API 28
    private fun preview(camera: CameraDevice) {
        val surface = Surface(view.surfaceTexture ?: return)
        val request = camera.createCaptureRequest(CameraDevice.TEMPLATE_PREVIEW)
        request.addTarget(surface)
        request.set(CaptureRequest.CONTROL_AF_MODE, CaptureRequest.CONTROL_AF_MODE_CONTINUOUS_PICTURE)
        camera.createCaptureSession(listOf(surface), Configured(request.build()), handler)
    }

    private inner class Listener : TextureView.SurfaceTextureListener {
        override fun onSurfaceTextureAvailable(
            surface: SurfaceTexture,
            width: Int,
            height: Int,
        ) = open()

        override fun onSurfaceTextureSizeChanged(
            surface: SurfaceTexture,
            width: Int,
            height: Int,
        ) = fit()

        override fun onSurfaceTextureDestroyed(surface: SurfaceTexture): Boolean = true

        override fun onSurfaceTextureUpdated(surface: SurfaceTexture) = Unit
    }

    private inner class Opened : CameraDevice.StateCallback() {
        override fun onOpened(camera: CameraDevice) {
            if (!isWanted) return camera.close()
            device = camera
            try {
                preview(camera)
            } catch (_: CameraAccessException) {
                onProblem(Problem.CAMERA)
            }
        }

        override fun onDisconnected(camera: CameraDevice) = lose(camera)

        override fun onError(
            camera: CameraDevice,
            error: Int,
        ) = lose(camera)

        private fun lose(camera: CameraDevice) {
            camera.close()
            device = null
            if (isWanted) onProblem(Problem.CAMERA)
        }
    }

    private inner class Configured(
        private val request: CaptureRequest,
    ) : CameraCaptureSession.StateCallback() {
        override fun onConfigured(session: CameraCaptureSession) {
            try {
                session.setRepeatingRequest(request, null, handler)
            } catch (_: CameraAccessException) {
                onProblem(Problem.CAMERA)
            } catch (_: IllegalStateException) {
                return // closed meanwhile
            }
        }

        override fun onConfigureFailed(session: CameraCaptureSession) = onProblem(Problem.CAMERA)
    }

    private companion object {
        const val FRAME = 256f // pixels of a frame's shorter side: more than bundles take
        const val HALF_TURN = 180
    }
}
