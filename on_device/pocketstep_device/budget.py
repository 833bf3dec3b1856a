"""What an update may cost, and what this process costs."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path

from pocketstep_device.errors import CheckFailedError, InputError

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Budget:
    """Limits of one update.

    Attributes:
        seconds: wall-clock time after which no further training step begins; None for no limit.
        memory_mb: resident memory above idle, in MiB, that the update must stay under; None for no limit.
    """

    seconds: float | None = None
    memory_mb: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("seconds", self.seconds), ("memory_mb", self.memory_mb)):
            if value is not None and not 0 < value < float("inf"):
                raise InputError(f"the budget's {name} is {value}; give a positive number or leave it out")


@dataclass
class Meter:
    """Runs beside an update and says when its budget is spent."""

    budget: Budget
    start: float = field(default_factory=time.monotonic)
    idle: float = field(default_factory=lambda: resident_mb())

    def __post_init__(self) -> None:
        reset_peak()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.start

    @property
    def peak_mb(self) -> float:
        """Peak resident memory above where the update began, MiB; 0 where the system does not tell."""
        return max(0.0, peak_mb() - self.idle)

    def has_time(self) -> bool:
        """Whether another step may begin."""
        return self.budget.seconds is None or self.seconds < self.budget.seconds

    def check_memory(self) -> None:
        """Raises CheckFailedError when the update took more memory than it may."""
        if self.budget.memory_mb is not None and self.peak_mb > self.budget.memory_mb:
            raise CheckFailedError(
                f"the update needed {self.peak_mb:.0f} MiB above idle, more than its budget of "
                f"{self.budget.memory_mb:.0f} MiB; nothing was changed. Raise the budget or build the bundle with a "
                "smaller batch"
            )


def _status_mb(field_name: str) -> float:
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith(field_name + ":"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0


def resident_mb() -> float:
    """Resident memory of this process, MiB (Linux; 0 elsewhere)."""
    return _status_mb("VmRSS")


def peak_mb() -> float:
    """Highest resident memory since :func:`reset_peak`, MiB (Linux; 0 elsewhere)."""
    return _status_mb("VmHWM")


def reset_peak() -> None:
    """Starts the peak anew where the system allows it."""
    with contextlib.suppress(OSError):
        _CLEAR.write_text("5")
