"""An update: the manifest's schedule of phases, run on latents through the program's signatures.

Nothing here computes a loss, a gradient or a head: phases choose rows, rates and masks, and every candidate state is
judged on samples that were held back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pocketstep_device import closed_form
from pocketstep_device.budget import Meter
from pocketstep_device.errors import BundleError
from pocketstep_device.judge import Verdict, judge
from pocketstep_device.machine import Machine
from pocketstep_device.manifest import Schedule
from pocketstep_device.pace import Pace
from pocketstep_device.reports import PhaseReport, Progress, UpdateReport
from pocketstep_device.runtimes import Array
from pocketstep_device.samples import Samples
from pocketstep_device.shuffle import SplitMix64
from pocketstep_device.target_pack import METHOD, Lesson
from pocketstep_device.training import COVARIANCE, Trainer, vector

Values = dict[str, Array]
AUTO = "auto"
CHOOSING = (AUTO, METHOD)
"""Methods that keep the phase that does best; the others keep their last one."""
PROTOTYPES = ("prototypes", "prototype_count")


@dataclass(frozen=True)
class Candidate:
    """A state that a phase ended with."""

    report: PhaseReport
    verdict: Verdict
    values: Values


@dataclass
class Update:
    """One run of a schedule. The caller's values are never changed; the chosen candidate's are returned.

    Attributes:
        machine: the program.
        values: the state before the update, its statistics and class mask already with the new classes.
        known: (slots,) 1 for classes that existed before.
        samples: replay of the cloud and of the device, pending ones among them, and the lesson's last.
        lesson: a target pack's; None without.
    """

    machine: Machine
    values: Values
    known: Array
    samples: Samples
    schedule: Schedule
    method: str
    meter: Meter
    random: SplitMix64
    on_progress: Callable[[Progress], None] | None = None
    lesson: Lesson | None = None
    trainer: Trainer = field(init=False)

    def __post_init__(self) -> None:
        machine, samples = self.machine, self.samples

        def judged(values: Values) -> Verdict:  # not by self: in a circle, all samples would wait for a collection
            return judge(machine, values, samples)

        self._judge = judged
        self.trainer = Trainer(
            machine, self.known, samples, self.meter, self.random, judged, self.on_progress, self.lesson
        )

    def run(self) -> tuple[UpdateReport, Values]:
        """All phases, then the choice; once the budget's time is up, those that would train nothing are left out.

        Steps end early enough for the closed form of what they trained, at the pace that was measured until then.
        ``auto`` trains nothing where it could not tell what that costs: it ends with the closed form then.

        Returns:
            The report, and the values to keep (the caller's own when nothing was accepted).
        """
        before = {**self.values, "class_mask": self.known}
        pace, began = Pace.of(self.samples), self.meter.seconds
        verdict = self._judge(before)
        pace.judged(self.meter.seconds - began)
        self.trainer.cache_targets(before)
        values = dict(self.values)
        candidates: list[Candidate] = []
        trained = False
        for index, phase in enumerate(self.schedule.phases):
            self.meter.reserve = pace.beside_steps(self.schedule.phases[index:])
            needed = phase["kind"] == "solve" and trained  # a head for what was trained is worth its time
            if candidates and (self._ends_closed or not (needed or self.meter.has_time())):
                continue
            self.trainer.loss, self.trainer.steps, self.trainer.verdict = math.nan, 0, None
            began = self.meter.seconds
            values = self._phase(phase, values)
            if phase["kind"] == "solve" and not phase.get("refresh"):
                pace.head = self.meter.seconds - began
            self.meter.check_memory()
            found = self.trainer.verdict or self._judge(values)
            name, seconds = str(phase.get("name", phase["kind"])), self.meter.seconds - began
            report = PhaseReport(name, self.trainer.steps, self.trainer.loss, seconds, found.old, found.new)
            candidates.append(Candidate(report, found, dict(values)))
            trained = self.trainer.steps > 0 or (trained and phase["kind"] != "solve")
        return self._choose(verdict, candidates)

    @property
    def _ends_closed(self) -> bool:
        """Whether ``auto`` begins with the closed form and can judge less than half of the known classes."""
        judged = self.samples.labels[self.samples.held_back & ~self.samples.pending]
        blind = 2 * len(np.unique(judged)) < int(np.count_nonzero(self.known))
        return self.method == AUTO and blind and any(p["kind"] == "solve" for p in self.schedule.phases[:1])

    def _choose(self, before: Verdict, candidates: list[Candidate]) -> tuple[UpdateReport, Values]:
        refusals = [c.verdict.refusal(before, self.schedule.accept) for c in candidates]
        able = [c for c, refusal in zip(candidates, refusals, strict=True) if not refusal and _is_finite(c.values)]
        phases = tuple(c.report for c in candidates)
        if not able:
            why = next((r for r in reversed(refusals) if r), "numbers that are not finite")
            reason = (
                f"every phase was refused, the last with: {why}; rolled back. "
                "Observe more images of the new class, or check their labels; forget() takes a class out"
            )
            return self._report(False, "", reason, before.old, before.old, math.nan, phases), self.values
        choosing = self.method in CHOOSING
        best = max(able, key=lambda c: c.verdict.score) if choosing else able[-1]
        reason = f"'{best.report.phase}' did best on held-back samples" if choosing else "as asked for"
        if self._ends_closed:
            reason = "too few known classes have held-back samples to train more than the closed form safely"
        old, new = best.report.old_accuracy, best.report.new_accuracy
        report = self._report(True, best.report.phase, reason, before.old, old, new, phases)
        return report, self._with_protection(best.values)

    def _report(
        self, accepted: bool, chosen: str, reason: str, before: float, old: float, new: float,
        phases: tuple[PhaseReport, ...],
    ) -> UpdateReport:  # fmt: skip
        seconds, peak = self.meter.seconds, self.meter.peak_mb
        return UpdateReport(accepted, self.method, chosen, reason, before, old, new, seconds, peak, phases)

    def _phase(self, phase: Mapping[str, Any], values: Values) -> Values:
        if phase["kind"] == "solve":
            return self._solve(phase, values)
        if phase["kind"] == "train":
            return self.trainer.run(phase, values)
        raise BundleError(
            f"the schedule has a phase of kind '{phase['kind']}', which this version does not know; "
            "update pocketstep-device"
        )

    def _solve(self, phase: Mapping[str, Any], values: Values) -> Values:
        """The closed-form head; with ``refresh``, from statistics of ``rows`` (all, new) as their features are now."""
        if phase.get("refresh"):
            rows = ~self.samples.held_back & (self.samples.pending | (phase.get("rows", "all") == "all"))
            values = closed_form.refreshed(self.machine, values, self.samples, np.flatnonzero(rows))
        head = self.machine.run("solve", {**values, **self.trainer.hyper(phase)})
        return {**values, **head, "blend": vector(1.0)}

    def _with_protection(self, values: Values) -> Values:
        """What protects this update's samples from the next one: prototypes and covariances go on with them."""
        kept = [n for n in values if n.startswith(COVARIANCE) or n in PROTOTYPES]
        rows = np.flatnonzero(self.samples.pending & ~self.samples.held_back)
        if not kept or len(rows) == 0:
            return values
        sums = self.trainer.scores(values, rows, values["class_mask"], {n: values[n] for n in kept})
        return {**values, **{n: sums[n] for n in kept}}


def _is_finite(values: Values) -> bool:
    return all(bool(np.isfinite(array).all()) for array in values.values())
