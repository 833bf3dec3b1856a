"""What an update may cost, and what this process costs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pocketstep_device.errors import CheckFailedError, InputError

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_POWER_EVERY = 1.0
"""Seconds between two questions about the battery."""


@dataclass(frozen=True)
class Power:
    """What the host says of its battery: ``level`` 0 (empty) to 1 (full), and whether it charges."""

    level: float
    charging: bool


@dataclass(frozen=True)
class Budget:
    """Limits of one update.

    Attributes:
        seconds: wall-clock time of the update: no training step begins that would leave too little for the closed form
            of what was trained, at the pace measured in this update; the first phase is always there, and so is that
            closed form when a step was slower than foreseen. None for no limit.
        memory_mb: resident memory above where the update began, in MiB: it does not begin when the forecast is higher,
            and is undone when it took more; None for no limit but the memory that is free.
        disk_mb: bytes that the update may write, in MiB; None for no limit but the space that is free.
        threads: CPU threads of the update; None for those that the learner was opened with.
        power: asked before the update and about once a second while it runs; None where there is no battery.
        min_battery: the update does not begin, and no further training step does, below this level (0 to 1) unless it
            charges.
    """

    seconds: float | None = None
    memory_mb: float | None = None
    disk_mb: float | None = None
    threads: int | None = None
    power: Callable[[], Power] | None = None
    min_battery: float = 0.2

    def __post_init__(self) -> None:
        limits = {"seconds": self.seconds, "memory_mb": self.memory_mb, "disk_mb": self.disk_mb}
        for name, value in limits.items():
            if value is not None and not 0 < value < float("inf"):
                raise InputError(f"the budget's {name} is {value}; give a positive number or leave it out")
        if self.threads is not None and self.threads < 1:
            raise InputError(f"the budget's threads are {self.threads}; give 1 or more, or leave them out")
        if not 0 <= self.min_battery <= 1:
            raise InputError(f"the budget's min_battery is {self.min_battery}; give a level from 0 to 1")

    def has_power(self) -> bool:
        """Whether the battery, if there is one, has enough or charges."""
        if self.power is None:
            return True
        power = self.power()
        return power.charging or power.level >= self.min_battery


@dataclass
class Meter:
    """Runs beside an update and says when its budget is spent.

    Attributes:
        reserve: seconds that must be left when the steps end.
        stopped: why no further step may begin: ``time``, ``battery`` or nothing.
    """

    budget: Budget
    reserve: float = field(default=0.0, init=False)
    start: float = field(default_factory=time.monotonic)
    idle: float = field(default_factory=lambda: resident_mb())
    stopped: str = ""
    _asked: float = field(default=0.0, init=False)

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

    @property
    def left(self) -> float | None:
        """Seconds until the steps must end; None without a budget of them."""
        return None if self.budget.seconds is None else self.budget.seconds - self.reserve - self.seconds

    def has_time(self) -> bool:
        """Whether another step may begin."""
        if self.left is not None and self.left <= 0:
            self.stopped = "time"
        elif self.seconds >= self._asked + _POWER_EVERY:
            self._asked = self.seconds
            if not self.budget.has_power():
                self.stopped = "battery"
        return not self.stopped

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
