"""This machine, each job in a process of its own: a crash of a runtime is then a report, not our end."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pocketstep_device
from pocketstep.validate.target import Job, UnsupportedError, finished, no_report
from pocketstep.validate.tools import Completed, run
from pocketstep.validate.wheels import site

OLD_PYTHON = "POCKETSTEP_TFLITE_PYTHON"
"""Environment variable: an interpreter that has tflite-runtime; its wheel is fetched where there is none."""
_PACKAGE = Path(pocketstep_device.__file__).parent.parent


class HostTarget:
    """The runtimes of this Python; tflite-runtime, which wants an older numpy, in an environment of its own."""

    name = "host"

    def __init__(self) -> None:
        old = ("tflite",) if os.environ.get(OLD_PYTHON) else ()  # its wheel is fetched only when it is asked for
        self.runtimes: Sequence[str] = ("litert", *old, "executorch")

    def prepare(self) -> None:
        """Nothing to do."""

    def validate(self, job: Job) -> bytes:
        """See :class:`Target`."""
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "report.json"
            done = run_local(self._python(job.runtime), job, report, job.timeout)
            finished(done, self.name)
            if not report.exists():
                raise no_report(done, self.name)
            return report.read_bytes()

    def close(self) -> None:
        """Nothing stays."""

    def _python(self, runtime: str) -> tuple[list[str], list[Path]]:
        """An interpreter's command, and folders for its ``PYTHONPATH`` before the device package."""
        if runtime != "tflite":
            return [sys.executable], []
        given = os.environ.get(OLD_PYTHON, "")
        if given and Path(given).exists():
            return [given], []
        if sys.version_info[:2] > (3, 11):
            raise UnsupportedError(f"tflite-runtime 2.14 has wheels up to Python 3.11; name one with {OLD_PYTHON}")
        wheels = site("tflite", f"{sys.version_info.major}.{sys.version_info.minor}", os.uname().machine)
        return [sys.executable, "-S"], [wheels]


def run_local(python: tuple[list[str], list[Path]], job: Job, report: Path, timeout: float) -> Completed:
    """Runs the runner with an interpreter of this machine."""
    command, paths = python
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(path) for path in [*paths, _PACKAGE])}
    words = job.words(str(job.bundle.absolute()), str(report))
    return run([*command, "-m", "pocketstep_device", *words], timeout, env=environment)
