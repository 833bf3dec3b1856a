"""A board over ssh: copies the device package, wheels and the bundle, runs, brings the report back, cleans up."""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pocketstep.validate.board import Board, start
from pocketstep.validate.errors import TargetError
from pocketstep.validate.shell import SshShell
from pocketstep.validate.target import Job, UnsupportedError, finished, no_report
from pocketstep.validate.wheels import NO_WHEELS, compile_for, device_package, site

_PROBE = (
    "import json, os, platform, shutil, sys; print(json.dumps({'python': '%d.%d' % sys.version_info[:2], "
    "'machine': platform.machine(), 'libc': platform.libc_ver()[1], "
    "'free_mb': shutil.disk_usage(sys.argv[1]).free // 2**20}))"
)
_FIND = (
    'PATH="$PATH:$HOME/.local/bin"; for name in python3 python3.13 python3.12 python3.11 python3.10; do '
    '"$name" -c "import sys; sys.exit(sys.version_info < (3, 10))" >/dev/null 2>&1 && command -v "$name" && exit 0; '
    "done; exit 1"
)
"""Prints a Python that is new enough. Older boards have one beside the system's; uv's folder is in no login's path."""
_NEWEST = {"tflite": (3, 11)}
"""The last Python that a runtime has wheels for, where that is known to be behind."""
_GLIBC = {"litert": (2, 34)}
"""What a runtime's library needs on aarch64, whatever its wheel says; JetPack 5 and Debian 11 have 2.31."""
_ROOM_MB = 120
_SHORT = 60.0


class SshTarget:
    """A board that can be logged into without a password, with Python 3.10 or newer.

    Args:
        name: as the user wrote it.
        host: ``user@machine``.
        port: None for ssh's own.
        folder: where to work; the board's temporary folder where empty.
        shell: how it is spoken to, where that is known already.
    """

    def __init__(self, name: str, host: str, port: int | None, folder: str, shell: SshShell | None = None) -> None:
        self.name = name
        self.runtimes: Sequence[str] = ("litert", "tflite", "executorch")
        self._shell = shell or SshShell(host, port)
        self._parent = folder
        self._folder = ""
        self._python = ""
        self._facts: dict[str, Any] = {}
        self._there: set[str] = set()

    def prepare(self) -> None:
        """Makes the working folder and asks what the board is."""
        try:
            self._begin()
        except TargetError as error:
            if error.kind != "timeout":
                raise
            message = f"{self.name} took the connection and did not answer within {_SHORT:.0f} s"
            raise TargetError("unreachable", message) from error

    def validate(self, job: Job) -> bytes:
        """See :class:`Target`."""
        python = self._environment(job.runtime)
        bundle = self._bundle(job.bundle)
        report = f"{self._folder}/report.json"
        words = [*python, "-m", "pocketstep_device", *job.words(bundle, report)]
        command = f"cd {self._folder} && rm -f report.json && echo $$ > pid && exec env {shlex.join(words)}"
        try:
            done = self._shell.run(f"sh -c {shlex.quote(command)}", timeout=job.timeout)
        except TargetError as error:
            if error.kind != "unreachable":
                raise
            self._there.clear()  # a board that starts again may have emptied its temporary folder
            raise TargetError("died", f"{self.name} hung up in the middle; run again: {error}") from error
        finished(done, self.name)
        found = self._shell.run(f"cat {report}", timeout=_SHORT)
        if found.returncode:
            raise no_report(done, self.name)
        return found.stdout

    def close(self) -> None:
        """Ends a runner that still runs, and removes the working folder."""
        if self._folder:
            with contextlib.suppress(TargetError):
                command = f"kill $(cat {self._folder}/pid) 2>/dev/null; rm -rf {self._folder}"
                self._shell.run(command, timeout=_SHORT)
            self._folder = ""

    def _begin(self) -> None:
        parent = shlex.quote(self._parent) if self._parent else '"${TMPDIR:-/tmp}"'
        made = self._shell.checked(
            f"mktemp -d {parent}/pocketstep.XXXXXX", "Making a folder", timeout=_SHORT
        ).decode().strip()  # fmt: skip
        if not made.startswith("/") or shlex.quote(made) != made:
            raise TargetError("setup", f"{self.name} named its folder {made!r}; give one behind the port: …/data")
        self._folder = made
        found = self._shell.run(f"sh -c {shlex.quote(_FIND)}", timeout=_SHORT)
        if found.returncode:
            raise TargetError("missing tool", f"{self.name} has no python3 of 3.10 or newer; install it there")
        self._python = found.stdout.decode().strip()
        asked = shlex.join([self._python, "-c", _PROBE, made])
        self._facts = json.loads(self._shell.checked(asked, "Asking what it is", timeout=_SHORT))
        if self._facts["free_mb"] < _ROOM_MB:
            free = self._facts["free_mb"]
            raise TargetError(
                "disk full", f"{self.name} has {free} MiB free in {made}; make {_ROOM_MB}, or give …/data"
            )

    def _environment(self, runtime: str) -> list[str]:
        """The command of a Python there that has the device package and a runtime."""
        package = f"{self._folder}/package"
        if "package" not in self._there:
            with tempfile.TemporaryDirectory() as folder:
                device_package(Path(folder))
                compile_for(Path(folder), self._facts["python"])
                self._shell.put(Path(folder), package)
            self._there.add("package")
        if runtime == "executorch":  # its binding needs torch: the board's own, such as JetPack's
            if self._shell.run(shlex.join([self._python, "-c", "import executorch"]), timeout=_SHORT).returncode:
                raise UnsupportedError(f"{self.name} has no executorch; pip install executorch there, with its torch")
            return [f"PYTHONPATH={package}", self._python]
        wheels = f"{self._folder}/{runtime}"
        if runtime not in self._there:
            self._check(runtime)
            self._shell.put(site(runtime, self._facts["python"], self._facts["machine"]), wheels)
            self._there.add(runtime)
        return [f"PYTHONPATH={package}:{wheels}", self._python, "-S"]

    def _check(self, runtime: str) -> None:
        machine, libc = self._facts["machine"], self._facts["libc"]
        if (reason := NO_WHEELS.get((runtime, machine))) is not None:
            raise UnsupportedError(reason)
        newest, python = _NEWEST.get(runtime, (99,)), self._facts["python"]
        if tuple(int(part) for part in python.split(".")) > newest:
            last = ".".join(map(str, newest))
            raise UnsupportedError(
                f"{runtime} has wheels up to Python {last} and {self.name} has {python}; put one there"
            )
        found = tuple(int(part) for part in libc.split(".")[:2] if part.isdigit())
        if machine == "aarch64" and found and found < _GLIBC.get(runtime, (0,)):
            raise UnsupportedError(f"{runtime} needs glibc 2.34 and {self.name} has {libc}; ask for --runtime tflite")

    def _bundle(self, bundle: Path) -> str:
        """Copies a bundle, once; its path there."""
        place = f"{self._folder}/bundle"
        if str(bundle) not in self._there:
            self._shell.run(f"rm -rf {place}", timeout=_SHORT)
            self._shell.put(bundle, place)
            self._there = {item for item in self._there if "/" not in item and not item.endswith(".bundle")}
            self._there.add(str(bundle))
        return place


class BoardTarget:
    """The emulated board, started in a fresh folder, again where it died, and spoken to like any other."""

    name = "emulator:board"

    def __init__(self) -> None:
        self.runtimes: Sequence[str] = ("litert", "tflite")
        self._running: tuple[Board, SshTarget] | None = None
        self._folder = Path()

    def prepare(self) -> None:
        """Starts the board and logs in."""
        self._start()

    def validate(self, job: Job) -> bytes:
        """See :class:`Target`."""
        board, there = self._running or self._start()
        try:
            return there.validate(job)
        except TargetError as error:
            if board.alive:
                raise
            found = board.explained(error)
            self.close()
            raise found from error

    def close(self) -> None:
        """Stops the board and removes its disk."""
        if self._running is not None:
            self._running[0].stop()
            self._running = None
        if self._folder != Path():
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = Path()

    def _start(self) -> tuple[Board, SshTarget]:
        self.close()  # what a start that failed has left
        self._folder = Path(tempfile.mkdtemp(prefix="pocketstep-board-"))
        board = start(self._folder, memory_mb=512)
        self._running = board, SshTarget(self.name, "", None, "/data", board.shell)
        self._running[1].prepare()
        return self._running
