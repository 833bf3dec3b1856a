"""A short learning task that any bundle with replay samples has; ``VALIDATION.md`` describes it step by step."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pocketstep_device.bundle import Bundle
from pocketstep_device.learner import Learner
from pocketstep_device.shipped import cloud_samples
from pocketstep_device.shuffle import SplitMix64

MADE_UP = "made-up"
TAUGHT, ASKED = 40, 64
_METHOD = "closed-form"


@dataclass(frozen=True)
class LearningReport:
    """What the task gave: accuracies as shares of right answers, and the slots that were answered."""

    method: str
    taught: int
    accepted: bool
    old_before: float
    old_after: float
    new: float
    seconds: float
    predictions: list[int]


def why_not(bundle: Bundle) -> str:
    """Why a bundle has no learning task; empty when it has one."""
    task = bundle.manifest.task
    if len(task.classes) >= task.slots:
        return "no learning task: no class slot is free"
    if MADE_UP in task.classes:
        return f"no learning task: the bundle has a class '{MADE_UP}'"
    if cloud_samples(bundle).held_back.all():
        return "no learning task: the bundle has no replay samples to teach with"
    return ""


def made_up(latents: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """Latents (N, h, w, c) of a class that no network has seen: channels permuted; one or two are negated."""
    channels = latents.shape[-1]
    if channels <= 2:
        return -np.maximum(latents, -127)
    return np.ascontiguousarray(latents[..., SplitMix64(1).permutation(channels)])


def evenly(rows: npt.NDArray[np.int64], wanted: int) -> npt.NDArray[np.int64]:
    """At most ``wanted`` of some rows, evenly spaced."""
    count = min(wanted, len(rows))
    return rows[np.arange(count) * len(rows) // max(count, 1)]


def learn(bundle: Bundle, runtime: str, threads: int) -> LearningReport:
    """Runs the task in a temporary state folder.

    Args:
        bundle: one that :func:`why_not` has nothing against.
        runtime: see ``open_program``.
        threads: CPU threads.
    """
    samples = cloud_samples(bundle)
    taught = evenly(np.flatnonzero(~samples.held_back), TAUGHT)
    held = np.flatnonzero(samples.held_back)
    asked = samples.select(evenly(held if len(held) else np.flatnonzero(~samples.held_back), ASKED))
    method = _METHOD if _METHOD in bundle.manifest.schedules else "auto"
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, Learner.open(bundle.path, Path(folder), runtime, threads) as learner:
        learner.add_class(MADE_UP)
        old_before = float((_answers(learner, asked.latents) == asked.labels).mean())
        learner.observe_latents(made_up(samples.latents[taught]), MADE_UP)
        accepted = learner.update(method=method).accepted
        old, new = _answers(learner, asked.latents), _answers(learner, made_up(asked.latents))
        slot = learner.classes.index(MADE_UP)
    seconds = time.perf_counter() - began
    old_after, found = float((old == asked.labels).mean()), float((new == slot).mean())
    predictions = [int(answer) for answer in np.concatenate([old, new])]
    return LearningReport(method, len(taught), accepted, old_before, old_after, found, seconds, predictions)


def _answers(learner: Learner, latents: npt.NDArray[np.int8]) -> npt.NDArray[np.int64]:
    labels = learner.classify_latents(latents).labels
    return np.array([learner.classes.index(label) for label in labels], np.int64)
