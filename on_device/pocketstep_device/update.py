"""An update: the manifest's schedule of phases, run on latents through the program's signatures.

Nothing here computes a loss, a gradient or a head: phases choose rows, rates and masks, and every candidate state is
judged on samples that were held back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pocketstep_device.budget import Meter
from pocketstep_device.errors import BundleError
from pocketstep_device.machine import Machine, padded
from pocketstep_device.manifest import Schedule
from pocketstep_device.reports import PhaseReport, Progress, UpdateReport
from pocketstep_device.runtimes import Array
from pocketstep_device.samples import Samples

Values = dict[str, Array]


@dataclass(frozen=True)
class Candidate:
    """A state that a phase ended with."""

    report: PhaseReport
    score: tuple[float, float]
    values: Values


@dataclass
class Update:
    """One run of a schedule. The caller's values are never changed; the chosen candidate's are returned.

    Attributes:
        machine: the program.
        values: the state before the update, class mask already with the new classes.
        known: (slots,) 1 for classes that existed before; they are what distillation protects.
        samples: replay of the cloud and of the device, pending ones among them.
    """

    machine: Machine
    values: Values
    known: Array
    samples: Samples
    schedule: Schedule
    method: str
    meter: Meter
    random: np.random.Generator
    on_progress: Callable[[Progress], None] | None = None
    loss: float = math.nan
    steps: int = 0
    soft_targets: Array = field(init=False)
    soft_weights: Array = field(init=False)

    def run(self) -> tuple[UpdateReport, Values]:
        """All phases, then the choice.

        Returns:
            The report, and the values to keep (the caller's own when nothing was accepted).
        """
        before = {**self.values, "class_mask": self.known}
        old_before, _, _ = self._judge(before)
        self._cache_targets(before)
        values = self._with_pending_statistics(dict(self.values))
        candidates: list[Candidate] = []
        for phase in self.schedule.phases:
            began, self.loss, self.steps = self.meter.seconds, math.nan, 0
            values = self._phase(phase, values)
            self.meter.check_memory()
            old, new, score = self._judge(values)
            name = str(phase.get("name", phase["kind"]))
            report = PhaseReport(name, self.steps, self.loss, self.meter.seconds - began, old, new)
            candidates.append(Candidate(report, score, dict(values)))
        return self._choose(old_before, candidates)

    def _choose(self, old_before: float, candidates: list[Candidate]) -> tuple[UpdateReport, Values]:
        limit = self.schedule.accept.max_old_loss
        able = [c for c in candidates if not c.report.old_accuracy < old_before - limit and _is_finite(c.values)]
        phases = tuple(c.report for c in candidates)
        if not able:
            best_old = max((c.report.old_accuracy for c in candidates), default=math.nan)
            reason = (
                f"every phase lost more than {limit:.0%} on known classes (best {best_old:.1%}, before "
                f"{old_before:.1%}); rolled back. Observe more images of the new class, or check their labels"
            )
            return self._report(False, "", reason, old_before, old_before, math.nan, phases), self.values
        best = max(able, key=lambda c: c.score) if self.method == "auto" else able[-1]
        reason = f"'{best.report.phase}' did best on held-back samples" if self.method == "auto" else "as asked for"
        old, new = best.report.old_accuracy, best.report.new_accuracy
        return self._report(True, best.report.phase, reason, old_before, old, new, phases), best.values

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
            return self._train(phase, values)
        raise BundleError(f"the schedule has a phase of kind '{phase['kind']}', which this version does not know")

    def _solve(self, phase: Mapping[str, Any], values: Values) -> Values:
        """The closed-form head; with ``refresh``, from statistics of the features as they are now."""
        if phase.get("refresh"):
            fresh = {name: np.zeros_like(values[name]) for name in ("count", "total", "second")}
            values = self._accumulate({**values, **fresh}, self.samples.select(~self.samples.held_back))
        hyper = {n: _vector(phase.get(n, entry.default)) for n, entry in self.machine.manifest.hyper.items()}
        head = self.machine.run("solve", {**values, **hyper})
        return {**values, **head, "blend": _vector(1.0)}

    def _with_pending_statistics(self, values: Values) -> Values:
        chosen = self.samples.pending & ~self.samples.held_back
        return self._accumulate(values, self.samples.select(chosen))

    def _accumulate(self, values: Values, samples: Samples) -> Values:
        """Adds samples to the closed-form head's statistics."""
        batch = self.machine.manifest.signatures["statistics"].batch
        features = self.machine.in_batches("classify", values, {"latents": samples.latents}, "features")
        labels = self._one_hot(samples.labels)
        for start in range(0, len(samples), batch):
            rows = slice(start, start + batch)
            feed = {
                "features": padded(features[rows], batch),
                "labels": padded(labels[rows], batch),
                "label_weights": padded(np.ones(len(labels[rows]), np.float32), batch),
            }
            values = {**values, **self.machine.run("statistics", {**values, **feed})}
        return values

    def _cache_targets(self, before: Values) -> None:
        """The teacher's cached targets; for the device's own accepted samples, its outputs before the update."""
        samples = self.samples
        self.soft_targets = samples.soft_targets.copy()
        own = ~samples.has_soft & ~samples.pending
        if own.any():
            logits = self.machine.in_batches("classify", before, {"latents": samples.latents[own]}, "logits")
            self.soft_targets[own] = logits
        self.soft_weights = (samples.has_soft | own).astype(np.float32)

    def _train(self, phase: Mapping[str, Any], values: Values) -> Values:
        """Gradient steps on rows ``new`` or ``all``, class-balanced, cosine rate; stops when the time is up."""
        usable = ~self.samples.held_back
        rows = np.flatnonzero(usable & self.samples.pending if phase["rows"] == "new" else usable)
        if len(rows) == 0:
            return values
        fixed = {**self._controls("step"), **self._masks(phase, values), **self._hyper(phase)}
        values = {**values, "blend": _vector(0.0)}
        batch = self.machine.manifest.signatures["step"].batch
        total = max(1, int(phase["epochs"]) * math.ceil(len(rows) / batch))
        for index, chosen in enumerate(self._batches(rows, batch, total)):
            if not self.meter.has_time():
                break
            rate = float(phase["learning_rate"]) * 0.5 * (1 + math.cos(math.pi * index / total))
            feed = {**values, **fixed, "learning_rate": _vector(rate), **self._batch(chosen, batch)}
            outputs = self.machine.run("step", feed)
            values.update({name: array for name, array in outputs.items() if name in values})
            self.loss, self.steps = float(outputs["loss"][0]), index + 1
            if self.on_progress:
                name = str(phase.get("name", "train"))
                self.on_progress(Progress(name, index + 1, total, self.loss, self.meter.seconds))
        return values

    def _controls(self, signature: str) -> Values:
        """Masks over class slots: what protects classes protects the known ones; targets that nobody gave are zero."""
        values: Values = {}
        for spec in self.machine.manifest.signatures[signature].inputs:
            if spec.source == "control" and spec.shape == self.known.shape:
                taught = np.arange(len(self.known)) < len(self.machine.manifest.task.classes)
                values[spec.name] = taught.astype(np.float32) if spec.name == "logit_mask" else self.known
            elif spec.source == "batch":
                values[spec.name] = np.zeros(spec.shape, np.float32)
        return values

    def _hyper(self, phase: Mapping[str, Any]) -> Values:
        hyper = self.machine.manifest.hyper
        return {name: _vector(phase.get(name, entry.default)) for name, entry in hyper.items()}

    def _batches(self, rows: npt.NDArray[np.int64], batch: int, total: int) -> Iterator[npt.NDArray[np.int64]]:
        """Class-balanced batches: a class at random, then one of its samples."""
        labels = self.samples.labels[rows]
        by_class = [rows[labels == c] for c in np.unique(labels)]
        for _ in range(total):
            picks = self.random.integers(0, len(by_class), min(batch, len(rows)))
            yield np.array([by_class[p][self.random.integers(0, len(by_class[p]))] for p in picks])

    def _batch(self, chosen: npt.NDArray[np.int64], batch: int) -> Values:
        return {
            "latents": padded(self.samples.latents[chosen], batch),
            "labels": padded(self._one_hot(self.samples.labels[chosen]), batch),
            "label_weights": padded(np.ones(len(chosen), np.float32), batch),
            "soft_targets": padded(self.soft_targets[chosen], batch),
            "soft_weights": padded(self.soft_weights[chosen], batch),
        }

    def _masks(self, phase: Mapping[str, Any], values: Values) -> Values:
        """Which weights may move: all, or all but the fraction ``freeze`` that matters most to known classes (ODIL)."""
        names = [s.name for s in self.machine.manifest.state if s.kind == "parameter"]
        freeze = float(phase.get("freeze", 0.0))
        rows = np.flatnonzero(~self.samples.held_back & ~self.samples.pending)
        if freeze <= 0 or len(rows) == 0:
            return {f"mask.{name}": np.ones_like(values[name]) for name in names}
        importance = self._importance(values, rows, names)
        threshold = np.quantile(np.concatenate([i.ravel() for i in importance.values()]), 1 - freeze)
        return {f"mask.{n}": (importance[n] <= threshold).astype(np.float32) for n in names}

    def _importance(self, values: Values, rows: npt.NDArray[np.int64], names: list[str]) -> Values:
        """(gradient * weight)^2 over known samples, summed by the program."""
        batch = self.machine.manifest.signatures["score"].batch
        described = self.machine.manifest.signatures["score"]
        sums = {s.name: np.zeros(s.shape, np.float32) for s in described.inputs if s.source == "statistics"}
        for start in range(0, len(rows), batch):
            feed = {**values, **sums, **self._batch(rows[start : start + batch], batch)}
            sums = self.machine.run("score", {**feed, "class_mask": self.known})
        return {name: sums[f"importance.{name}"] for name in names}

    def _one_hot(self, labels: npt.NDArray[np.int64]) -> Array:
        return np.eye(self.machine.manifest.task.slots, dtype=np.float32)[labels]

    def _judge(self, values: Values) -> tuple[float, float, tuple[float, float]]:
        """Mean per-class accuracy on known and on pending held-back samples, and the score of both together."""
        held = self.samples.select(self.samples.held_back)
        outputs = self.machine.in_batches("classify", values, {"latents": held.latents}, "probabilities")
        right = outputs.argmax(1) == held.labels
        sure = outputs[np.arange(len(held)), held.labels]
        old, new = (per_class_mean(right[m], held.labels[m]) for m in (~held.pending, held.pending))
        parts = [a for a in (old, new) if not math.isnan(a)]
        score = (sum(parts) / max(1, len(parts)), per_class_mean(sure, held.labels))
        return old, new, score


def per_class_mean(values: npt.NDArray[Any], labels: npt.NDArray[np.int64]) -> float:
    """The mean over classes of the mean within a class; NaN without samples."""
    means = [float(values[labels == c].mean()) for c in np.unique(labels)]
    return sum(means) / len(means) if means else math.nan


def _vector(value: Any) -> Array:
    return np.array([float(value)], np.float32)


def _is_finite(values: Values) -> bool:
    return all(bool(np.isfinite(array).all()) for array in values.values())
