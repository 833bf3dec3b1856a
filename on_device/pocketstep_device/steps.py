"""How far a phase of gradient steps is, and whether more of them help."""

from __future__ import annotations

import math
from collections.abc import Callable

from pocketstep_device.budget import Meter
from pocketstep_device.judge import Verdict
from pocketstep_device.runtimes import Array

Values = dict[str, Array]
PATIENCE = 2
"""Checks in a row without a better state after which a phase stops."""
_ROUNDING = 1e-9


class Steps:
    """The share of a phase that is done: by its steps, or by time where the budget ends before they do.

    So a rate that falls along the phase has fallen when it ends, however slow the device is.

    Attributes:
        done: steps so far.
        share: 0 before the first one, 1 after the last one.
    """

    def __init__(self, meter: Meter, total: int) -> None:
        self.done, self.share = 0, 0.0
        self._meter, self._began, self._total = meter, meter.seconds, total

    @property
    def rate(self) -> float:
        """Of the next step, as a share of the phase's: half a cosine, from 1 to 0."""
        return 0.5 * (1 + math.cos(math.pi * self.share))

    def take(self) -> None:
        """One more is done."""
        self.done += 1
        ahead = float(self._total - self.done)
        if self._meter.left is not None:
            pace = (self._meter.seconds - self._began) / self.done
            ahead = min(ahead, max(0.0, self._meter.left) / max(pace, _ROUNDING))
        self.share += (1 - self.share) / (ahead + 1)


class Checks:
    """Looks at a state a few times along a phase, remembers the best, and has enough after two that were no better.

    Args:
        judge: how a state does on held-back samples.
        count: how many times; 0 for never.
    """

    def __init__(self, judge: Callable[[Values], Verdict], count: int) -> None:
        self._judge, self._count = judge, count
        self._best: tuple[Values, Verdict] | None = None
        self._number, self._worse, self._unseen = 0, 0, False

    @property
    def enough(self) -> bool:
        """Whether further steps would be in vain."""
        return self._worse >= PATIENCE

    def after(self, share: float, values: Values) -> None:
        """A step was done, and that share of the phase."""
        number = int(share * self._count + _ROUNDING)
        self._unseen = number == self._number
        if not self._unseen:
            self._number = number
            self._look(values)

    def best(self, last: Values) -> tuple[Values, Verdict | None]:
        """The best state that was looked at, the last one among them, and how it does; without looks, the last one."""
        if self._count and self._unseen:
            self._look(last)
        return self._best or (last, None)

    def _look(self, values: Values) -> None:
        found = self._judge(values)
        if self._best is None or found.score > self._best[1].score:
            self._best, self._worse = (dict(values), found), 0
        else:
            self._worse += 1
