"""A phase of gradient steps: rows, batches, targets, rates and masks for the program's ``step``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pocketstep_device import masks
from pocketstep_device.budget import Meter
from pocketstep_device.judge import Verdict
from pocketstep_device.machine import Machine, padded
from pocketstep_device.reports import Progress
from pocketstep_device.runtimes import Array
from pocketstep_device.samples import NO_LOGIT, TEACHER, Samples, one_hot
from pocketstep_device.shuffle import SplitMix64
from pocketstep_device.steps import Checks, Steps, Values
from pocketstep_device.target_pack import Lesson

Rows = npt.NDArray[np.int64]
COVARIANCE, PROJECTION = "covariance.", "projection."


@dataclass
class Trainer:
    """Gradient steps on an update's samples; values go in and come out, nothing is kept but counters.

    Attributes:
        known: (slots,) 1 for classes that existed before the update; they are what distillation protects.
        samples: all of the update.
        judge: how a state does on held-back samples, for phases with ``checks``.
        lesson: the target pack whose samples are the last ones; None without.
        loss, steps: of the phase that ran last.
        verdict: of what that phase ended with, where it has ``checks``.
    """

    machine: Machine
    known: Array
    samples: Samples
    meter: Meter
    random: SplitMix64
    judge: Callable[[Values], Verdict]
    on_progress: Callable[[Progress], None] | None = None
    lesson: Lesson | None = None
    loss: float = math.nan
    steps: int = 0
    verdict: Verdict | None = None
    soft_targets: Array = field(init=False)
    soft_weights: Array = field(init=False)
    label_weights: Array = field(init=False)

    def cache_targets(self, before: Values) -> None:
        """Logits to distil from: the teacher's cached ones, for the device's own samples its outputs before the update.

        Not for pending samples of a class that is known: they were observed because the outputs are to change.
        """
        samples = self.samples
        self.soft_targets = samples.soft_targets.copy()
        self.label_weights = (samples.origin != TEACHER).astype(np.float32)
        own = ~samples.has_soft & ~(samples.pending & (self.known[samples.labels] > 0))
        if own.any():
            latents, rows = {"latents": samples.latents}, np.flatnonzero(own)
            self.soft_targets[own] = self.machine.in_batches("classify", before, latents, "logits", rows)
            self.soft_targets[np.ix_(own, (self._distilled > 0) & (self.known == 0))] = NO_LOGIT
        self.soft_weights = (samples.has_soft | own).astype(np.float32)

    def run(self, phase: Mapping[str, Any], values: Values) -> Values:
        """All steps of a phase, with a cosine rate; stops early when the time is up or held-back samples say so.

        Where the budget ends before the steps do, the rate falls in that time.
        """
        usable = ~self.samples.held_back
        rows = np.flatnonzero(usable & self.samples.pending if phase["rows"] == "new" else usable)
        if len(rows) == 0:
            return values
        fixed = {**self._controls("step"), **self._masks(phase, values), **self._projections(phase, values)}
        fixed.update(self.hyper(phase))
        values = {**values, "blend": vector(0.0)}
        batch = self.machine.manifest.signatures["step"].batch
        total = max(1, int(phase["epochs"]) * math.ceil(len(rows) / batch))
        total = min(total, int(phase.get("max_steps", total)))
        steps, checks = Steps(self.meter, total), Checks(self.judge, int(phase.get("checks", 0)))
        for chosen in self._batches(rows, batch, total, bool(phase.get("balanced", True))):
            if not self.meter.has_time() or checks.enough:
                break
            rate = float(phase["learning_rate"]) * steps.rate
            feed = {**values, **fixed, "learning_rate": vector(rate), **self._batch(chosen, batch)}
            outputs = self.machine.run("step", feed)
            values.update({name: array for name, array in outputs.items() if name in values})
            steps.take()
            self.loss, self.steps = float(outputs["loss"][0]), steps.done
            checks.after(steps.share, values)
            if self.on_progress:
                name = str(phase.get("name", "train"))
                self.on_progress(Progress(name, steps.done, total, self.loss, self.meter.seconds))
        values, self.verdict = checks.best(values)
        return values

    def scores(self, values: Values, rows: Rows, classes: Array, begun: Mapping[str, Array] | None = None) -> Values:
        """Sums of ``score`` over rows: gradients, importances, and what else the program adds up.

        From zero, but for those that ``begun`` has.
        """
        signature = self.machine.manifest.signatures["score"]
        sums = {s.name: np.zeros(s.shape, np.float32) for s in signature.inputs if s.source == "statistics"}
        sums.update(begun or {})
        batch = signature.batch
        for start in range(0, len(rows), batch):
            if begun is None and not self.meter.has_time():
                break  # they are for steps that will not be
            feed = {**values, **sums, **self._batch(rows[start : start + batch], batch), "class_mask": classes}
            sums = self.machine.run("score", feed)
        return sums

    def _controls(self, signature: str) -> Values:
        """Masks over class slots: what protects classes protects the known ones; targets that nobody gave are zero."""
        taught = np.arange(len(self.known)) < len(self.machine.manifest.task.classes)
        masks_of = {"logit_mask": taught.astype(np.float32), "soft_mask": self._distilled}
        values: Values = {}
        for spec in self.machine.manifest.signatures[signature].inputs:
            if spec.source == "control" and spec.shape == self.known.shape:
                values[spec.name] = masks_of.get(spec.name, self.known)
            elif spec.source == "batch":
                values[spec.name] = np.zeros(spec.shape, np.float32)
        return values

    @property
    def _distilled(self) -> Array:
        """(slots,) 1 for classes that soft targets speak of: the known ones, and those that a pack's teacher knows."""
        return self.known if self.lesson is None else np.maximum(self.known, self.lesson.taught)

    def hyper(self, phase: Mapping[str, Any]) -> Values:
        """Every hyper-parameter of the manifest: the phase's value, or the default."""
        hyper = self.machine.manifest.hyper
        return {name: vector(phase.get(name, entry.default)) for name, entry in hyper.items()}

    def _masks(self, phase: Mapping[str, Any], values: Values) -> Values:
        names = [s.name for s in self.machine.manifest.state if s.kind == "parameter"]
        usable = ~self.samples.held_back
        old, new = (np.flatnonzero(usable & m) for m in (~self.samples.pending, self.samples.pending))
        parts = [masks.everything(names, values)]
        if (share := float(phase.get("freeze", 0.0))) > 0 and len(old):
            scores = self.scores(values, old, self.known)
            parts.append(masks.without_important(scores, names, share, bool(phase.get("freeze_by_layer", False))))
        if (kept := float(phase.get("channels", 1.0))) < 1 and len(new):
            parts.append(masks.selected_channels(self.scores(values, new, values["class_mask"]), names, kept))
        if paths := self.machine.manifest.plan.paths:
            rates = np.where(self.known > 0, np.float32(1), np.float32(phase.get("new_paths", 1.0)))
            seen = np.isin(np.arange(len(rates)), self.samples.labels[new])
            rates = np.where(seen, rates, rates * np.float32(phase.get("other_paths", 1.0)))
            parts.append(masks.of_paths(paths, values, names, rates))
        return {f"mask.{name}": mask for name, mask in masks.together(parts).items()}

    def _projections(self, phase: Mapping[str, Any], values: Values) -> Values:
        """What updates are multiplied with: the identity, or from the covariances by the program's ``project``."""
        names = [n for n in values if n.startswith(PROJECTION)]
        if not names or not phase.get("project"):
            return {n: np.eye(len(values[n]), dtype=np.float32) for n in names}
        feed = {**values, "hard": vector(phase["project"] == "hard")}
        return self.machine.run("project", {**feed, **self.hyper(phase)})

    def _batches(self, rows: Rows, batch: int, total: int, balanced: bool) -> Iterator[Rows]:
        """Random batches: a class, then one of its samples; or, unbalanced, any sample."""
        labels = self.samples.labels[rows]
        groups = [rows[labels == c] for c in np.unique(labels)] if balanced else [rows]
        for _ in range(total):
            picks = [groups[self.random.below(len(groups))] for _ in range(min(batch, len(rows)))]
            yield np.array([group[self.random.below(len(group))] for group in picks])

    def _batch(self, chosen: Rows, batch: int) -> Values:
        labels = one_hot(self.samples.labels[chosen], self.machine.manifest.task.slots)
        return {
            **self._feature_targets(chosen, batch),
            "latents": padded(self.samples.latents[chosen], batch),
            "labels": padded(labels, batch),
            "label_weights": padded(self.label_weights[chosen], batch),
            "soft_targets": padded(self.soft_targets[chosen], batch),
            "soft_weights": padded(self.soft_weights[chosen], batch),
        }

    def _feature_targets(self, chosen: Rows, batch: int) -> Values:
        """Those of the pack's samples, which are the last ones; nothing where there are none."""
        if self.lesson is None or self.lesson.features is None:
            return {}
        features = self.lesson.features
        places = chosen - (len(self.samples) - len(features))
        taught = places >= 0
        targets = np.where(taught[:, None], features[np.maximum(places, 0)], np.float32(0))
        return {
            "feature_targets": padded(targets, batch),
            "feature_weights": padded(taught.astype(np.float32), batch),
        }


def vector(value: Any) -> Array:
    """A number as a program's input, (1,)."""
    return np.array([float(value)], np.float32)
