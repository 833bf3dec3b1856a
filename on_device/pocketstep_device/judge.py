"""How a state does on samples that were held back, and whether that is good enough to keep it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pocketstep_device.machine import Machine
from pocketstep_device.manifest import Accept
from pocketstep_device.runtimes import Array
from pocketstep_device.samples import Samples

FEWEST = 5
"""Held-back samples of a class below which its own accuracy is too coarse to refuse an update."""


@dataclass(frozen=True)
class Verdict:
    """Accuracies are means per class, 0 to 1, NaN without samples.

    Attributes:
        old: on samples that an earlier update had seen, or that came with the bundle.
        new: on pending ones.
        score: to compare states by; accuracy first, then mean probability of the right class.
        count: old samples.
        by_class: slot -> accuracy on the old samples and how many there are, of classes with at least ``FEWEST``.
    """

    old: float
    new: float
    score: tuple[float, float]
    count: int
    by_class: dict[int, tuple[float, int]]

    def refusal(self, before: Verdict, accept: Accept) -> str:
        """Why this is too bad to be kept, compared with what was before; empty when it is not.

        A loss counts when it is larger than the limit and the standard error of what was before: of so few samples,
        some are lost by chance.
        """
        if self.old < before.old - accept.max_old_loss - standard_error(before.old, before.count):
            return f"lost more than {accept.max_old_loss:.0%} on known classes ({before.old:.1%} to {self.old:.1%})"
        lost: dict[int, float] = {}
        for slot, (was, count) in before.by_class.items():
            if slot in self.by_class:
                lost[slot] = was - self.by_class[slot][0] - standard_error(was, count)
        slot = max(lost, key=lambda s: lost[s], default=-1)
        if slot >= 0 and lost[slot] > accept.max_class_loss:
            was, now = before.by_class[slot][0], self.by_class[slot][0]
            return f"lost more than {accept.max_class_loss:.0%} on class {slot} ({was:.1%} to {now:.1%})"
        return ""


def standard_error(share: float, count: int) -> float:
    """Of a share (0 to 1) of so many samples; 0 without samples."""
    return math.sqrt(max(0.0, share * (1 - share)) / count) if count else 0.0


def judge(machine: Machine, values: dict[str, Array], samples: Samples) -> Verdict:
    """What ``classify`` with these values says of the samples that are held back."""
    held = np.flatnonzero(samples.held_back)
    outputs = machine.in_batches("classify", values, {"latents": samples.latents}, "probabilities", held)
    labels, pending = samples.labels[held], samples.pending[held]
    right = outputs.argmax(1) == labels
    sure = outputs[np.arange(len(held)), labels]
    known = ~pending
    old, new = (per_class_mean(right[m], labels[m]) for m in (known, pending))
    parts = [a for a in (old, new) if not math.isnan(a)]
    score = (sum(parts) / max(1, len(parts)), per_class_mean(sure, labels))
    slots, counts = np.unique(labels[known], return_counts=True)
    enough = [int(s) for s in slots[counts >= FEWEST]]
    by_class = {s: right[known & (labels == s)] for s in enough}
    return Verdict(old, new, score, int(known.sum()), {s: (float(r.mean()), len(r)) for s, r in by_class.items()})


def per_class_mean(values: npt.NDArray[Any], labels: npt.NDArray[np.int64]) -> float:
    """The mean over classes of the mean within a class; NaN without samples."""
    means = [float(values[labels == c].mean()) for c in np.unique(labels)]
    return sum(means) / len(means) if means else math.nan
