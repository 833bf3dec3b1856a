package pocketstep.validator

import android.app.Activity
import android.app.ActivityManager
import android.app.Instrumentation
import android.content.Context
import android.content.pm.PackageManager
import android.os.Build
import android.os.Bundle
import pocketstep.executorch.ExecuTorch
import pocketstep.learner.Golden
import pocketstep.learner.Runtime
import pocketstep.learner.Validation
import pocketstep.litert.LiteRt
import java.io.File

/**
 * Validates a bundle on this device: `am instrument -w -e bundle NAME -e runtime litert pocketstep.validator/.ValidateInstrumentation`.
 *
 * Arguments are `bundle` (a name in the app's files), `runtime` (`litert`, `executorch`), `tolerance`, `threads` and
 * `learning`; what comes of it lies in `files/report.json`, as `on_device/VALIDATION.md` describes it.
 */
open class ValidateInstrumentation : Instrumentation() {
    private lateinit var arguments: Bundle

    override fun onCreate(arguments: Bundle?) {
        super.onCreate(arguments)
        this.arguments = arguments ?: Bundle()
        start()
    }

    override fun onStart() {
        super.onStart()
        val result = Bundle()
        try {
            val report = validate(targetContext, arguments)
            File(targetContext.filesDir, "report.json").writeText(report)
            result.putString(REPORT_KEY_STREAMRESULT, report)
            finish(Activity.RESULT_OK, result)
        } catch (problem: IllegalArgumentException) {
            result.putString(REPORT_KEY_STREAMRESULT, problem.message)
            finish(Activity.RESULT_CANCELED, result)
        }
    }

    /** The report, JSON. */
    fun validate(
        context: Context,
        arguments: Bundle,
    ): String {
        val name = requireNotNull(arguments.getString("bundle")) { "give the bundle: -e bundle NAME" }
        val runtime = runtime(arguments.getString("runtime", "litert"))
        val scratch = File(context.cacheDir, "validation").apply { deleteRecursively() }
        try {
            return Validation.report(
                bundle = File(context.filesDir, name).toPath(),
                runtime = runtime,
                scratch = scratch.toPath(),
                facts = facts(context, runtime.name),
                threads = number("threads", arguments.getString("threads", "2").toIntOrNull()),
                tolerance = number("tolerance", arguments.getString("tolerance", "${Golden.TOLERANCE}").toDoubleOrNull()),
                learning = arguments.getString("learning", "true") == "true",
            )
        } finally {
            scratch.deleteRecursively()
        }
    }

    /** A runtime by its name. */
    protected open fun runtime(name: String): Runtime =
        when (name) {
            "litert" -> LiteRt()
            "executorch" -> ExecuTorch()
            else -> throw IllegalArgumentException("the validator has no runtime '$name'; it has litert and executorch")
        }

    private fun <T : Any> number(
        name: String,
        value: T?,
    ): T = requireNotNull(value) { "-e $name takes a number" }

    private fun facts(
        context: Context,
        runtime: String,
    ): Map<String, Any?> {
        val manager = context.packageManager
        val application = manager.getApplicationInfo(context.packageName, PackageManager.GET_META_DATA)
        val memory = ActivityManager.MemoryInfo()
        (context.getSystemService(Context.ACTIVITY_SERVICE) as ActivityManager).getMemoryInfo(memory)
        val device =
            mapOf(
                "machine" to System.getProperty("os.arch").orEmpty(),
                "system" to "Android ${Build.VERSION.RELEASE} (API ${Build.VERSION.SDK_INT})",
                "cpu" to Build.HARDWARE.orEmpty(),
                "model" to "${Build.MANUFACTURER} ${Build.MODEL}",
                "memory_mb" to memory.totalMem / MIB,
                "python" to null,
            )
        return mapOf(
            "runtime_version" to application.metaData?.getString(runtime).orEmpty(),
            "package_version" to manager.getPackageInfo(context.packageName, 0).versionName.orEmpty(),
            "device" to device,
        )
    }

    private companion object {
        const val MIB = 1024.0 * 1024.0
    }
}
