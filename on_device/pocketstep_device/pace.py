"""How long the rest of an update will take beside its training steps, so that it can end in time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pocketstep_device.samples import Samples

COUNTING = 1.25
"""What a sample of a refreshed closed form takes, in times of ``classify``: adding to the statistics is 0.14 to 0.3
of it on the digits' bundle."""
MARGIN = 1.1
"""What was measured once takes longer the next time, now and then: a budget is kept, not just met on average."""


@dataclass
class Pace:
    """What this update has measured of itself.

    Attributes:
        held: held-back samples, by which every phase is judged.
        usable: samples that a refreshed closed form goes through.
        fresh: those of them that were observed since the last update.
        sample: seconds that ``classify`` took for one sample.
        head: seconds of the last closed-form head that was not refreshed.
    """

    held: int
    usable: int
    fresh: int
    sample: float = 0.0
    head: float = 0.0

    @classmethod
    def of(cls, samples: Samples) -> Pace:
        """Of an update of these samples, before anything was measured."""
        usable = ~samples.held_back
        return cls(int(samples.held_back.sum()), int(usable.sum()), int((usable & samples.pending).sum()))

    def judged(self, seconds: float) -> None:
        """The held-back samples took this long."""
        self.sample = seconds / max(1, self.held)

    def beside_steps(self, phases: Sequence[Mapping[str, Any]]) -> float:
        """Seconds of the first of these phases without its steps, and of the head for what it trained.

        Args:
            phases: those that are still ahead, at least one; what lies between a phase that ran out of time and the
                next closed form is left out.
        """
        judging = self.held * self.sample
        solve = next((phase for phase in phases if phase["kind"] == "solve"), None)
        needed = 0.0 if phases[0] is solve else judging
        if solve is not None:
            rows = self.usable if solve.get("rows", "all") == "all" else self.fresh
            refreshed = rows if solve.get("refresh") else 0
            needed += self.head + refreshed * COUNTING * self.sample + judging
        return MARGIN * needed
