"""What every target does: run the device's runner on a bundle and give its report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pocketstep.validate.errors import TargetError
from pocketstep.validate.tools import Completed, last_lines


@dataclass(frozen=True)
class Job:
    """What a target is asked.

    Attributes:
        bundle: the bundle.
        runtime: ``litert``, ``tflite`` or ``executorch``.
        threads: CPU threads.
        tolerance: largest relative error that passes.
        timeout: seconds for the whole of it.
        learning: whether the learning task runs.
    """

    bundle: Path
    runtime: str
    threads: int
    tolerance: float
    timeout: float
    learning: bool

    def words(self, bundle: str, report: str) -> list[str]:
        """Arguments of ``pocketstep-device`` for a bundle and a report that lie there."""
        words = ["validate", bundle, "--runtime", self.runtime, "--threads", str(self.threads)]
        words += ["--tolerance", repr(self.tolerance), "--json", report]
        return words if self.learning else [*words, "--no-learning"]


class Target(Protocol):
    """A place where bundles run; jobs come one after the other."""

    name: str
    runtimes: Sequence[str]
    """Those to ask where nobody chose."""

    def prepare(self) -> None:
        """Reaches the target and makes it ready, once, before the first job.

        Raises:
            TargetError: no job can be asked of it.
        """
        ...

    def validate(self, job: Job) -> bytes:
        """The report of one job, JSON.

        Raises:
            TargetError: the target could not be asked.
            UnsupportedError: the runtime does not exist for it.
        """
        ...

    def close(self) -> None:
        """Takes away what was put there, and stops what was started."""
        ...


class UnsupportedError(TargetError):
    """A runtime does not exist for a target."""

    def __init__(self, message: str) -> None:
        super().__init__("unsupported", message)


def finished(done: Completed, where: str) -> None:
    """The runner has ended and should have written a report.

    Raises:
        TargetError: it ended otherwise than with one of its exit codes: killed, crashed, no Python.
    """
    if done.returncode in (0, 1, 2, 3):
        return
    number = -done.returncode if done.returncode < 0 else done.returncode - 128
    how = f"was killed by signal {number}" if 0 < number < 65 else f"ended with {done.returncode}"
    hint = "; out of memory is likely" if number == 9 else ""
    raise TargetError("died", f"the runner on {where} {how}{hint}: {last_lines(done.stderr)}")


def no_report(done: Completed, where: str) -> TargetError:
    """The runner ended in order and left no report: it says why itself."""
    said = last_lines(done.stderr)
    return TargetError("disk full" if "No space left" in said else "died", f"no report from {where}: {said}")
