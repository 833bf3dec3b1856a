package pocketstep.learner

/**
 * Base of all errors that a user can cause or must act upon: what happened, why, and what to do next.
 *
 * The kinds and their messages are those of the Python device package.
 */
public open class PocketstepException(
    message: String,
    cause: Throwable? = null,
) : RuntimeException(message, cause)

/** A validation, a budget or an accuracy bar was not met. */
public class CheckFailedException(
    message: String,
    cause: Throwable? = null,
) : PocketstepException(message, cause)

/** Wrong use or bad input: a file, an image, a name, an option. */
public open class InputException(
    message: String,
    cause: Throwable? = null,
) : PocketstepException(message, cause)

/** The bundle is missing, incomplete, damaged, untrusted or of another format. */
public class BundleException(
    message: String,
    cause: Throwable? = null,
) : InputException(message, cause)

/** The device's saved state is unreadable, does not belong to the bundle, or cannot be written. */
public open class StateException(
    message: String,
    cause: Throwable? = null,
) : InputException(message, cause)

/** A runtime that was asked for is not there. */
public class MissingToolException(
    message: String,
    cause: Throwable? = null,
) : PocketstepException(message, cause)

/** Its kind as the exit codes of the command lines have it: 1 a check failed, 2 bad input, 3 a tool is missing. */
internal val PocketstepException.exitCode: Int
    get() =
        when (this) {
            is CheckFailedException -> 1
            is MissingToolException -> 3
            else -> 2
        }

/** Which kind of error a reader raises: bundles, states and other input read alike and differ in this. */
internal typealias Failure = (message: String, cause: Throwable?) -> InputException

internal val asInput: Failure = ::InputException
internal val asBundle: Failure = ::BundleException
internal val asState: Failure = ::StateException
