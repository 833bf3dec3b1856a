"""Averages what devices send, and keeps out or bounds what some of them send in error or in malice.

Every part is averaged over the devices that hold it, weighted by their samples (TeAM §3.1; McMahan et al. 2017 where
every device holds every part). Only plain arrays here: nothing of Flower, nothing that can be fatal.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pocketstep_device.exchange import class_of, part_problem

Array = npt.NDArray[np.float32]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Contribution:
    """What one device sends in a round.

    Attributes:
        sender: who, for the log.
        round: that it answers.
        parts: by name, float32.
        samples: images behind a class's parts, by class; ``""`` for parts that all classes share.
        own_accuracy: what the device says of its own held-back samples, 0 to 1; for people only.
    """

    sender: str
    round: int
    parts: Mapping[str, Array]
    samples: Mapping[str, float]
    own_accuracy: float | None = None


@dataclass(frozen=True)
class Defence:
    """What is bounded and refused.

    Attributes:
        clip: a device's whole change is scaled down to this many times the median of all devices' (0: not at all); and
            never more than ``max_norm``.
        max_norm: largest norm of a device's change.
        trim: share of the holders that is left out at each end, value by value, where at least three hold a part
            (trimmed mean, Yin et al. 2018); 0 for the plain average.
        max_weight: a device's samples count for at most so many times the median of a part's holders.
        max_age: rounds that an answer may be late.
        equal: whether every holder counts alike, however many samples it has (see ``privacy``).
    """

    clip: float = 3.0
    max_norm: float = 100.0
    trim: float = 0.2
    max_weight: float = 10.0
    max_age: int = 0
    equal: bool = False


PLAIN = Defence(clip=0.0, max_norm=math.inf, trim=0.0, max_weight=math.inf)
"""No defence but against what is no tensor at all: what the methods are in their papers."""


@dataclass
class Outcome:
    """A round's result.

    Attributes:
        parts: all parts after the round.
        holders: of each part, how many devices it was averaged over.
        rejected: sender -> why nothing of it was used.
        clipped: sender -> the factor its change was scaled with.
        found: classes that were not known before.
    """

    parts: dict[str, Array]
    holders: dict[str, int] = field(default_factory=dict)
    rejected: dict[str, str] = field(default_factory=dict)
    clipped: dict[str, float] = field(default_factory=dict)
    found: tuple[str, ...] = ()


def aggregate(
    current: Mapping[str, Array], sent: Sequence[Contribution], number: int, defence: Defence | None = None
) -> Outcome:
    """One round: what is sound of what was sent, averaged part by part; parts that nobody sent stay as they are.

    A class that the server does not know is welcome when its parts have the shapes of the other classes' parts and
    all of them are there; devices that found the same class meet by its name, and its change is counted from zero.

    Args:
        current: the server's parts.
        sent: by the devices, in any order; at most one each counts.
        number: of the round.
        defence: ``Defence()`` where None.
    """
    rules, outcome = defence or Defence(), Outcome(dict(current))
    shapes = _shapes(current)
    sound: dict[str, Contribution] = {}
    for contribution in sent:
        problem = _problem(contribution, shapes, number, rules)
        problem = problem or ("answered twice" if contribution.sender in sound else "")
        if problem:
            outcome.rejected[contribution.sender] = problem
            log.warning("round %d: %s rejected: %s", number, contribution.sender, problem)
        else:
            sound[contribution.sender] = contribution
    changes = _clipped(current, sound, rules, outcome)
    for name in sorted({name for change in changes.values() for name in change}):
        holders = [sender for sender, change in changes.items() if name in change]
        weights = _weights([sound[s].samples.get(class_of(name), 0.0) for s in holders], rules)
        if not weights.any():
            continue
        stack = np.stack([changes[s][name] for s in holders])
        start = current.get(name, np.zeros_like(stack[0]))
        outcome.parts[name] = (start + _mean(stack, weights, rules.trim)).astype(np.float32)
        outcome.holders[name] = int(np.count_nonzero(weights))
    known = {class_of(name) for name in current}
    outcome.found = tuple(sorted({class_of(name) for name in outcome.parts} - known))
    return outcome


def _shapes(current: Mapping[str, Array]) -> dict[str, tuple[int, ...]]:
    """Of every part; and, under ``TENSOR@``, of a tensor's parts of any class."""
    shapes = {name: part.shape for name, part in current.items()}
    for name, part in current.items():
        if class_of(name):
            shapes.setdefault(f"{name.partition('@')[0]}@", part.shape)
    return shapes


def _problem(c: Contribution, shapes: Mapping[str, tuple[int, ...]], number: int, rules: Defence) -> str:
    """Why a contribution cannot be used; empty when it can."""
    if not number - rules.max_age <= c.round <= number:
        return f"it answers round {c.round}, not {number}"
    if not c.parts:
        return "it sent nothing"
    if not all(math.isfinite(n) and n >= 0 for n in c.samples.values()):
        return "its numbers of samples are none"
    for name, part in c.parts.items():
        known = shapes.get(name, shapes.get(f"{name.partition('@')[0]}@") if _is_name(class_of(name)) else None)
        if known is None:
            return f"there is no part '{name[:100]}'"
        if problem := part_problem(part, known):
            return f"'{name[:100]}' {problem}"
    every = {key[:-1] for key in shapes if key.endswith("@")}
    for new in {class_of(name) for name in c.parts if class_of(name) and name not in shapes}:
        if {name.partition("@")[0] for name in c.parts if class_of(name) == new} != every:
            return f"the new class '{new[:100]}' lacks some of its parts"
    return ""


def _is_name(name: str) -> bool:
    return 0 < len(name) <= 200 and name.isprintable()


def _clipped(
    current: Mapping[str, Array], sound: Mapping[str, Contribution], rules: Defence, outcome: Outcome
) -> dict[str, dict[str, npt.NDArray[np.float64]]]:
    """Every device's change, no longer than the others'."""
    changes = {
        sender: {
            name: part.astype(np.float64) - current.get(name, np.zeros_like(part)) for name, part in c.parts.items()
        }
        for sender, c in sound.items()
    }
    norms = {s: math.sqrt(sum(float((d**2).sum()) for d in change.values())) for s, change in changes.items()}
    limit = rules.max_norm
    if rules.clip and len(norms) > 1:
        limit = min(limit, rules.clip * float(np.median(list(norms.values()))))
    for sender, norm in norms.items():
        if norm > limit:
            factor = limit / norm
            outcome.clipped[sender] = factor
            log.warning("the change of %s was scaled by %.2g: its norm is %.3g", sender, factor, norm)
            changes[sender] = {name: d * factor for name, d in changes[sender].items()}
    return changes


def _weights(samples: Sequence[float], rules: Defence) -> npt.NDArray[np.float64]:
    numbers = np.array(samples, np.float64)
    if rules.equal:
        return (numbers > 0).astype(np.float64)
    positive = numbers[numbers > 0]
    return np.minimum(numbers, rules.max_weight * float(np.median(positive))) if len(positive) else numbers


def _mean(values: npt.NDArray[np.float64], weights: npt.NDArray[np.float64], trim: float) -> npt.NDArray[np.float64]:
    """The weighted mean over the first axis, value by value without the largest and smallest share."""
    values, weights = values[weights > 0], weights[weights > 0]
    cut = math.ceil(trim * len(values)) if trim and len(values) >= 3 else 0
    cut = min(cut, (len(values) - 1) // 2)
    spread = np.broadcast_to(weights.reshape(-1, *[1] * (values.ndim - 1)), values.shape)
    if cut:
        order = values.argsort(axis=0)[cut : len(values) - cut]
        values, spread = np.take_along_axis(values, order, 0), np.take_along_axis(spread, order, 0)
    mean: npt.NDArray[np.float64] = (values * spread).sum(0) / spread.sum(0)
    return mean
