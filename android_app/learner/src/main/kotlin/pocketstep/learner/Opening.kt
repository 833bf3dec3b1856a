package pocketstep.learner

import java.io.Closeable
import java.nio.file.Path

/** Checks everything that a learner begins with, and holds its folder; see [BlockingLearner.open]. */
internal fun openLearner(
    bundle: Path,
    state: Path,
    runtime: Runtime,
    options: Options,
): BlockingLearner {
    val opened = Bundle.open(bundle, options.trustedKeys)
    val machine = Machine(opened, runtime, options.threads)
    var lock: Closeable? = null
    try {
        lock = FolderLock(state)
        val floor = ReleaseFloor(state)
        floor.check(opened.manifest.release, opened.manifest.name)
        val store = StateStore(state, opened.digest, mostBytes(opened.manifest))
        val manifest = opened.manifest
        val replay = ReplayStore(state, manifest.latent.shape, manifest.task.slots, options.storeBytes)
        return BlockingLearner(opened, store, replay, lock, machine).also { floor.keep(opened.manifest.release) }
    } catch (reason: Throwable) {
        lock?.close()
        machine.close()
        throw reason
    }
}

/** Gives a state to a new bundle; see [BlockingLearner.adopt]. */
internal fun adoptState(
    bundle: Path,
    state: Path,
    runtime: Runtime,
    options: Options,
    onCheckpoint: () -> Unit,
    update: (BlockingLearner) -> UpdateReport,
): Adoption {
    val opened = Bundle.open(bundle, options.trustedKeys)
    val manifest = opened.manifest
    return Machine(opened, runtime, options.threads).use { machine ->
        machine.checkpoint = onCheckpoint
        FolderLock(state).use { lock ->
            val floor = ReleaseFloor(state)
            floor.check(manifest.release, manifest.name)
            val adoption = Adopter(opened, machine, state, options.storeBytes, lock).run(update)
            if (adoption.accepted) floor.keep(manifest.release)
            adoption
        }
    }
}
