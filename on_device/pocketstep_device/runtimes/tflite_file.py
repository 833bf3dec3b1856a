"""A bundle's ``.tflite`` program as interpreters get it: one signature at a time, in memory only what it uses."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import IO, Any

from pocketstep_device.bundle import Bundle
from pocketstep_device.runtimes.tflite_parts import Parts

_MAPS = Path("/proc/self/maps")
_ON_DISK = Path("/var/tmp")
"""Temporary files in /tmp often are memory."""
_MADV_DONTNEED = 4


class TfliteFile:
    """A checked copy of the program, in an unlinked temporary file on Linux, else in memory.

    Interpreters map it; a signature is chosen by writing zero over the others' numbers of operators, which only the
    making of an interpreter reads.

    Args:
        bundle: an opened bundle.
        name: of its program.
    """

    def __init__(self, bundle: Bundle, name: str):
        self._bundle, self._name = bundle, name
        self._file = _temporary(lambda stream: bundle.copy(name, stream))
        self._parts: Parts | None = None

    def check(self) -> None:
        """Raises ``ValueError`` where it is no program."""
        if self._file is None:
            Parts(self._bundle.read(self._name))
            return
        with mmap.mmap(self._file.fileno(), 0) as content:
            self._parts = Parts(content)

    def only(self, signature: str) -> dict[str, Any]:
        """What makes an interpreter of one signature: its ``model_path`` or ``model_content``.

        Raises:
            ValueError: no such signature.
        """
        if self._file is None:
            whole = bytearray(self._bundle.read(self._name))
            Parts(whole).keep_only(signature, whole)
            return {"model_content": bytes(whole)}
        assert self._parts is not None
        with mmap.mmap(self._file.fileno(), 0) as content:
            self._parts.keep_only(signature, content)
        return {"model_path": f"/proc/self/fd/{self._file.fileno()}"}

    def forget_pages(self) -> None:
        """Unmaps what was read of the file; what is needed once more is read again."""
        if self._file is None:
            return
        status = os.fstat(self._file.fileno())
        advise = _madvise()
        for line in _MAPS.read_text().splitlines():
            fields = line.split(maxsplit=5)
            if fields[4] == str(status.st_ino) and _device(fields[3]) == status.st_dev:
                start, end = (int(number, 16) for number in fields[0].split("-"))
                advise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_DONTNEED)


@cache
def _madvise() -> Callable[..., int]:
    """The system's; each ``CDLL`` makes types, which only a collection removes."""
    advise: Callable[..., int] = ctypes.CDLL(None).madvise
    return advise


def _temporary(fill: Callable[[IO[bytes]], object]) -> IO[bytes] | None:
    """A filled temporary file without a name; None where there is no room, or no way to open it by its number."""
    if sys.platform != "linux" or not _MAPS.exists():
        return None
    folder = _ON_DISK if os.access(_ON_DISK, os.W_OK) else None
    try:
        file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  lives as long as the program
    except OSError:
        return None
    try:
        fill(file)
        file.flush()
    except OSError:
        file.close()
        return None
    return file


def _device(text: str) -> int:
    major, minor = (int(number, 16) for number in text.split(":"))
    return os.makedev(major, minor)
