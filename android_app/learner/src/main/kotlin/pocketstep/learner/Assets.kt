package pocketstep.learner

import android.content.Context
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.withContext
import java.io.File
import java.io.IOException
import java.nio.file.Path

/** Bundles inside an app: runtimes want files, so that an asset is unpacked once for each version of it. */
public object Assets {
    /**
     * The place of a bundle that lies in the app's assets, a folder or one zip.
     *
     * @param asset its name there: `mugs.bundle`.
     * @return where it is now; a copy that was made before is used again.
     * @throws BundleException if there is no such asset, or the copy can't be made.
     */
    @JvmStatic
    public fun unpack(
        context: Context,
        asset: String,
    ): Path {
        val parent = File(context.noBackupFilesDir, "pocketstep")
        try {
            val names = context.assets.list(asset).orEmpty()
            val isBundle = Manifest.DIGEST_FILE in names
            val version = if (isBundle) digest(context, "$asset/${Manifest.DIGEST_FILE}") else versionOfApp(context)
            val target = File(parent, "${asset.replace('/', '_')}-$version")
            if (target.exists()) return target.toPath()
            val partial = File(parent, ".${target.name}.tmp")
            partial.deleteRecursively()
            copy(context, asset, partial)
            if (!partial.renameTo(target)) throw IOException("can't rename $partial")
            parent.listFiles { file -> isOlder(file, asset, target) }?.forEach { it.deleteRecursively() }
            return target.toPath()
        } catch (reason: IOException) {
            throw BundleException(
                "the asset $asset can't be unpacked (${reasonOf(reason)}). Put the bundle into assets/, or free some space",
                reason,
            )
        }
    }

    private fun isOlder(
        file: File,
        asset: String,
        target: File,
    ): Boolean = file != target && file.name.startsWith("${asset.replace('/', '_')}-")

    /** A zip may be large, so it is told apart by the app's own version. */
    private fun versionOfApp(context: Context): String =
        context.packageManager
            .getPackageInfo(context.packageName, 0)
            .lastUpdateTime
            .toString()

    private fun digest(
        context: Context,
        name: String,
    ): String = context.assets.open(name).use { String(it.readAtMost(DIGEST_DIGITS)) }.filter { it.isLetterOrDigit() }

    private fun copy(
        context: Context,
        name: String,
        target: File,
    ) {
        val inside = context.assets.list(name).orEmpty()
        if (inside.isEmpty()) {
            target.parentFile?.mkdirs()
            context.assets.open(name).use { from -> target.outputStream().use(from::copyTo) }
        } else {
            inside.forEach { copy(context, "$name/$it", File(target, it)) }
        }
    }

    private const val DIGEST_DIGITS = 16
}

/**
 * Opens a bundle of the app's assets; see [Learner.Companion.open].
 *
 * @param stateDir folder for what is learned, in the app's files unless it is absolute.
 */
public suspend fun Learner.Companion.open(
    context: Context,
    asset: String,
    stateDir: String,
    runtime: Runtime,
    options: Options = Options(),
): Learner {
    val bundle = withContext(Dispatchers.IO) { Assets.unpack(context, asset) }
    return open(bundle, context.filesDir.resolve(stateDir).toPath(), runtime, options)
}

/**
 * Gives a state to a bundle of the app's assets, after the app brought a new one; see [Learner.Companion.adopt].
 *
 * @param stateDir as for [open].
 */
public suspend fun Learner.Companion.adopt(
    context: Context,
    asset: String,
    stateDir: String,
    runtime: Runtime,
    options: Options = Options(),
    budget: Budget = Budget(),
): Adoption {
    val bundle = withContext(Dispatchers.IO) { Assets.unpack(context, asset) }
    return adopt(bundle, context.filesDir.resolve(stateDir).toPath(), runtime, options, budget)
}
