"""Writing that a power cut can't tear, and a lock that keeps two processes out of one folder."""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path
from types import TracebackType
from typing import IO

from pocketstep_device.errors import InputError, StateError

_LOCK_NAME = ".lock"
_DAMAGE = {errno.ENOENT, errno.EIO, errno.ENOTDIR, errno.ELOOP, getattr(errno, "EUCLEAN", errno.EIO)}
"""What the system says of a file that is gone, or that the disk does not give back."""
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF}


def write_atomically(path: Path, data: bytes) -> None:
    """Replaces a file by new content, so that after a crash it holds the old or the new, and never a mixture.

    Written beside it as ``.NAME.tmp``, flushed to the disk, renamed over it; then the folder is flushed. If
    only that last flush fails, the new file is already in place, complete.

    Args:
        path: The file; its folder must exist.
        data: All of its new content.

    Raises:
        StateError: if it can't be written (disk full, read-only, no such folder); the temporary is removed.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        try:
            temporary.unlink(missing_ok=True)
            _write_new(temporary, data)
            os.replace(temporary, path)  # noqa: PTH105 - the one call that tests interrupt
        except BaseException:
            _unlink_quietly(temporary)
            raise
        _sync_folder(path.parent)
    except OSError as reason:
        raise StateError(
            f"{path} can't be written ({reason.strerror or reason}). "
            "Free some space or make its folder writable, then try again."
        ) from reason


def read_regular(path: Path, most_bytes: int, what: str, error: type[InputError] = StateError) -> bytes:
    """Reads a plain file whole, its size checked first; links, folders and devices are refused.

    Args:
        path: The file.
        most_bytes: The largest size that is acceptable.
        what: What the file is, for messages.
        error: The class of error to raise.

    Raises:
        StateError: (or ``error``) if it is missing, no plain file, too large or unreadable.
    """
    try:
        before = path.lstat()
        if not stat.S_ISREG(before.st_mode):
            raise error(f"{what} is a link or no plain file, which is not trusted. Put the file itself there.")
        if before.st_size > most_bytes:
            raise error(
                f"{what} has {before.st_size} bytes, more than the {most_bytes} it can have: it was changed. "
                "Restore it from a copy."
            )
        with open_plain(path) as file:
            if not os.path.samestat(before, os.fstat(file.fileno())):
                raise error(f"{what} was replaced while it was read. Try again when nothing else writes there.")
            return file.read(before.st_size)
    except OSError as reason:
        raise error(f"{what} can't be read ({reason.strerror or reason}). Check that it is there.") from reason
    except MemoryError as reason:
        raise error(f"{what} does not fit into the memory that is free. End other programs.") from reason


def open_plain(path: Path) -> IO[bytes]:
    """Opens a file to read, but follows no link, and waits for no other process where a pipe was put in its place."""
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    return os.fdopen(os.open(path, flags), "rb")


def may_be_intact(problem: BaseException) -> bool:
    """Whether a file could not be read for a reason outside of it: permissions, memory, too many open files.

    Args:
        problem: What ``read_regular`` raised.
    """
    reason = problem.__cause__
    return isinstance(reason, MemoryError) or (isinstance(reason, OSError) and reason.errno not in _DAMAGE)


def remove_leftovers(folder: Path) -> None:
    """Removes temporary files that interrupted writes left in a folder; call it under the folder's lock."""
    for path in folder.glob(".*.tmp"):
        _unlink_quietly(path)


class FolderLock:
    """Keeps other processes out of a folder for as long as the ``with`` block lasts.

    The folder is made if it is missing. The operating system drops the lock when the process ends, however it
    ends, so a crash leaves nothing to clean up.

    Args:
        folder: The folder to hold.

    Raises:
        StateError: on entering, if another holder has it or the folder can't be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptor: int | None = None

    def __enter__(self) -> FolderLock:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(
                self._folder / _LOCK_NAME, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644
            )
        except OSError as reason:
            raise StateError(
                f"The folder {self._folder} can't be used ({reason.strerror or reason}). "
                "Make it writable or choose another state folder."
            ) from reason
        try:
            _lock(descriptor)
        except OSError as reason:
            os.close(descriptor)
            raise StateError(
                f"The folder {self._folder} is in use by another process. "
                "Wait until that one ends, or choose another state folder."
            ) from reason
        self._descriptor = descriptor
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)  # closing releases the lock
            self._descriptor = None


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _write_new(path: Path, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags, 0o644)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Flushes a rename to the disk, where the system and the file system can do that for a folder."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as reason:
        if reason.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


def _unlink_quietly(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # a leftover does no harm: the next write removes it
