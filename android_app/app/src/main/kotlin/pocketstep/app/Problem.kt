package pocketstep.app

import androidx.annotation.StringRes
import pocketstep.learner.BundleException
import pocketstep.learner.CheckFailedException
import pocketstep.learner.InputException
import pocketstep.learner.MissingToolException
import pocketstep.learner.StateException

/** What the app has to tell, as a sentence that says what to do next. */
enum class Problem(
    @param:StringRes @get:StringRes val sentence: Int,
) {
    NO_BUNDLE(R.string.problem_no_bundle),
    BAD_BUNDLE(R.string.problem_bad_bundle),
    NO_RUNTIME(R.string.problem_no_runtime),
    IN_USE(R.string.problem_in_use),
    STATE(R.string.problem_state),
    NOT_NOW(R.string.problem_not_now),
    NO_PLACE(R.string.problem_no_place),
    NAME(R.string.problem_name),
    SAME_PICTURES(R.string.problem_same_pictures),
    PICTURE(R.string.problem_picture),
    CAMERA(R.string.problem_camera),
    CAMERA_REFUSED(R.string.problem_camera_refused),
    OTHER(R.string.problem_other),
    STOPPED(R.string.notice_stopped),
    UNDONE(R.string.notice_undone),
    FORGOTTEN(R.string.notice_forgotten),
    KEPT(R.string.notice_kept),
}

/** There is no bundle among the app's assets: a build without one. */
class NoBundleException : Exception("assets/${AssetSource.BUNDLE} is missing: scripts/android bundle PATH")

/** All places for new classes are taken. */
class NoPlaceException : Exception("all class slots are taken")

/** A file that is no picture, or that can't be read. */
class PictureException(
    cause: Throwable,
) : Exception(cause)

/** The sentence for what went wrong. */
fun noticeOf(reason: Throwable): Notice = Notice(problemOf(reason), reason.message.orEmpty())

private fun problemOf(reason: Throwable): Problem =
    when (reason) {
        is NoBundleException -> Problem.NO_BUNDLE
        is NoPlaceException -> Problem.NO_PLACE
        is PictureException -> Problem.PICTURE
        is BundleException -> Problem.BAD_BUNDLE
        is StateException -> if ("in use" in reason.message.orEmpty()) Problem.IN_USE else Problem.STATE
        is InputException -> Problem.NAME
        is CheckFailedException -> Problem.NOT_NOW
        is MissingToolException -> Problem.NO_RUNTIME
        else -> Problem.OTHER
    }
