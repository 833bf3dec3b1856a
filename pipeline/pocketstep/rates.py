"""Learning rate schedules, as factors of the peak at each step of a run."""

from __future__ import annotations

import math
from collections.abc import Callable

from pocketstep_device.errors import InputError

Schedule = Callable[[int, int], float]
"""(step from 0, steps) -> factor of the peak rate."""

_WARM_UP, _RISE, _START, _END = 0.05, 0.3, 1 / 25, 1e-4


def cosine(step: int, steps: int) -> float:
    """Half a cosine from 1 to 0 (Zhao et al. §5), after a linear warm-up over the first 5 % of the steps."""
    warm_up = max(1, round(_WARM_UP * steps))
    return min((step + 1) / warm_up, 1) * 0.5 * (1 + math.cos(math.pi * step / steps))


def one_cycle(step: int, steps: int) -> float:
    """Up from 1/25 to 1 in 30 % of the steps, down to 1/10,000, both along half a cosine (Smith and Topin 2018)."""
    rise = max(_RISE * steps - 1, 1.0)
    if step < rise:
        return _between(_START, 1.0, step / rise)
    return _between(1.0, _END, (step - rise) / max(steps - 1 - rise, 1.0))


def schedule_named(name: str) -> Schedule:
    """``cosine`` or ``one-cycle``.

    Raises:
        InputError: there is no such schedule.
    """
    known: dict[str, Schedule] = {"cosine": cosine, "one-cycle": one_cycle}
    if name not in known:
        raise InputError(f"there is no schedule '{name}': choose one of {', '.join(known)}")
    return known[name]


def _between(start: float, end: float, share: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
