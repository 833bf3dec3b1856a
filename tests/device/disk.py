"""A disk that fails where a test wants it: at any call that changes it, and with what a power cut would lose."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

KEPT, NAMES_LOST, DATA_LOST = "all that was called is there", "unflushed names are undone", "unflushed data is cut"
OUTCOMES = (KEPT, NAMES_LOST, DATA_LOST)
"""What may lie on the disk after a power cut; file systems differ in this."""


class PowerCut(BaseException):
    """Ends the process, as far as its files are concerned: nothing that comes later reaches them."""


class Disk:
    """Wraps the calls of ``os`` that change files, counts them, and fails at one.

    A write that is cut is done by half. After a power cut every call fails, so that no cleaning up helps.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls, self._fail_at, self._failure = 0, 0, ""
        self._paths: dict[int, Path] = {}
        self._dirty: set[Path] = set()
        self._undo: list[tuple[Path, Callable[[], None]]] = []
        self._real = {name: getattr(os, name) for name in ("open", "write", "fsync", "replace", "unlink")}
        for name in self._real:
            monkeypatch.setattr(os, name, getattr(self, f"_{name}"))

    def cut_power_at(self, call: int) -> None:
        self._arm(call, "cut")

    def fill_up_at(self, call: int) -> None:
        """From that call on, whatever needs space fails."""
        self._arm(call, "full")

    def fail_once_at(self, call: int) -> None:
        self._arm(call, "once")

    def work(self) -> None:
        self._arm(0, "")

    @property
    def failed(self) -> bool:
        return 0 < self._fail_at <= self.calls

    def lose(self, outcome: str) -> None:
        """Makes of the files what a power cut may leave; call it once, after one."""
        self.work()
        if outcome == DATA_LOST:
            for path in self._dirty:
                if path.exists():
                    os.truncate(path, path.stat().st_size // 2)
        elif outcome == NAMES_LOST:
            for _, undo in reversed(self._undo):
                undo()

    def _arm(self, call: int, failure: str) -> None:
        self.calls, self._fail_at, self._failure = 0, call, failure
        if failure:
            self._dirty, self._undo = set(), []

    def _point(self, needs_space: bool) -> bool:
        """Counts a call; True where it is the one that is cut."""
        self.calls += 1
        if not self.failed:
            return False
        if self._failure == "full" and needs_space:
            raise OSError(errno.ENOSPC, "No space left on device")
        if self._failure == "once" and self.calls == self._fail_at:
            raise OSError(errno.EIO, "Input/output error")
        if self._failure == "cut":
            if self.calls > self._fail_at:
                raise PowerCut
            return True
        return False

    def _open(self, path: Any, flags: int, mode: int = 0o777, **options: Any) -> int:
        counted = bool(flags & os.O_CREAT) and not str(path).endswith(".lock")
        if counted and self._point(True):
            raise PowerCut
        descriptor: int = self._real["open"](path, flags, mode, **options)
        if counted:
            self._paths[descriptor] = Path(path)
        else:
            self._paths.pop(descriptor, None)
        return descriptor

    def _write(self, descriptor: int, data: Any) -> int:
        path = self._paths.get(descriptor)
        if path is None:
            return int(self._real["write"](descriptor, data))
        cut = self._point(True)
        self._dirty.add(path)
        written = int(self._real["write"](descriptor, data[: len(data) // 2] if cut else data))
        if cut:
            raise PowerCut
        return written

    def _fsync(self, descriptor: int) -> None:
        if self._point(True):
            raise PowerCut
        self._real["fsync"](descriptor)
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            folder = str(Path(f"/proc/self/fd/{descriptor}").readlink())
            self._undo = [(path, undo) for path, undo in self._undo if str(path.parent) != folder]
        else:
            self._dirty.discard(self._paths[descriptor])

    def _replace(self, source: Any, target: Any) -> None:
        if self._point(False):
            raise PowerCut
        source, target = Path(source), Path(target)
        content, before = source.read_bytes(), target.read_bytes() if target.exists() else None
        self._real["replace"](source, target)
        if source in self._dirty:
            self._dirty = (self._dirty - {source}) | {target}

        def undo() -> None:
            target.unlink(missing_ok=True)
            if before is not None:
                target.write_bytes(before)
            source.write_bytes(content)

        self._undo.append((target, undo))

    def _unlink(self, path: Any, **options: Any) -> None:
        if self._point(False):
            raise PowerCut
        path = Path(path)
        content = path.read_bytes() if path.is_file() else None
        self._real["unlink"](path, **options)
        self._dirty.discard(path)
        if content is not None:
            self._undo.append((path, lambda: path.write_bytes(content) and None))
