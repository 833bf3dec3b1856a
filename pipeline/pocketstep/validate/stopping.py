"""Ending in the middle: SIGTERM and a closed terminal count like Ctrl-C, and targets are still closed.

Targets are asked in threads, which nothing can interrupt, and which wait for programs. So a stop ends those programs;
every thread then meets :class:`StoppedError` where it would go on, and closes its target, for which programs may run.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

from pocketstep_device.errors import PocketstepError

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class StoppedError(PocketstepError):
    """The run was stopped; what was being asked has no outcome."""

    def __init__(self) -> None:
        super().__init__("the run was stopped")


class _Programs:
    """The programs that run now; those of a thread that closes its target are left alone by a stop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False
        self._thread = threading.local()

    @property
    def refused(self) -> bool:
        """Whether this thread shall start nothing any more."""
        return self._stopped and not getattr(self._thread, "closing", False)

    def start(self, words: Sequence[str], env: Mapping[str, str] | None) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        with self._lock:
            check()
            process = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, env=env)
            if not getattr(self._thread, "closing", False):
                self._running.add(process)
        return process

    def ended(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._running.discard(process)

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.kill()

    def go_on(self) -> None:
        self._stopped = False

    @contextlib.contextmanager
    def closing(self) -> Iterator[None]:
        before, self._thread.closing = getattr(self._thread, "closing", False), True
        try:
            yield
        finally:
            self._thread.closing = before


_programs = _Programs()
closing = _programs.closing
"""Within it this thread's programs run although the run was stopped: what was started must be ended."""


def check() -> None:
    """To be called by whatever waits without a program.

    Raises:
        StoppedError: the run was stopped.
    """
    if _programs.refused:
        raise StoppedError


@contextlib.contextmanager
def started(words: Sequence[str], env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A program with pipes, killed when the block ends before it does.

    Raises:
        StoppedError: the run was stopped before the block ended.
    """
    with _programs.start(words, env) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise
        finally:
            _programs.ended(process)
    check()


@contextlib.contextmanager
def pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that are stopped when the block, which waits for them, ends by an error or a signal."""
    try:
        with ThreadPoolExecutor(threads) as executor:
            try:
                yield executor
            except BaseException:
                executor.shutdown(wait=False, cancel_futures=True)
                _programs.stop()
                raise
    finally:
        _programs.go_on()


@contextlib.contextmanager
def signals() -> Iterator[None]:
    """Within it SIGTERM and SIGHUP end the block with exit code 128 + their number; for the main thread.

    Further ones are ignored: closing goes on to its end. What was ignored before, as under ``nohup``, stays so.
    """
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, _end)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, _: FrameType | None) -> None:
    for other in _SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    sys.stderr.write(f"stopped by {signal.Signals(number).name}; what was started is ended\n")
    raise SystemExit(128 + number)
