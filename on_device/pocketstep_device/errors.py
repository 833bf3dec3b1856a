"""Every error of the device package: what happened, why, and what to do next.

One base class, one documented exit code for each kind (see ``pocketstep-device --help``).
"""

from __future__ import annotations


class PocketstepError(Exception):
    """Base of all errors that a user can cause or must act upon. ``exit_code`` is what a command ends with."""

    exit_code = 1


class CheckFailedError(PocketstepError):
    """A validation, a budget or an accuracy bar was not met (exit code 1)."""

    exit_code = 1


class InputError(PocketstepError):
    """Wrong use or bad input: a file, an image, a name, an option (exit code 2)."""

    exit_code = 2


class BundleError(InputError):
    """The bundle is missing, incomplete, damaged, untrusted or of another format (exit code 2)."""


class StateError(InputError):
    """The device's saved state is unreadable, does not belong to the bundle, or cannot be written (exit code 2)."""


class MissingToolError(PocketstepError):
    """A runtime, tool or device that was asked for is not there (exit code 3)."""

    exit_code = 3
