"""What an update does, as data for the manifest; the harnesses only follow it.

``auto`` is phase by phase (design: closed form at once, phase A on new data, phase B with replay, closed form again);
the device takes the phase that does best on held-back samples. The others are baselines on the same latents.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pocketstep.compile.options import StepOptions

SHRINKAGE = 0.05
SOLVE: dict[str, Any] = {"kind": "solve", "name": "closed form", "shrinkage": SHRINKAGE}
NEW: dict[str, Any] = {
    "kind": "train",
    "name": "A: new data",
    "rows": "new",
    "epochs": 4,
    "learning_rate": 0.003,
    "freeze": 0.5,
    "distillation": 0.0,
}
REPLAY: dict[str, Any] = {
    "kind": "train",
    "name": "B: replay",
    "rows": "all",
    "epochs": 40,
    "learning_rate": 0.005,
    "distillation": 1.0,
    "temperature": 2.0,
}
AGAIN: dict[str, Any] = {**SOLVE, "name": "closed form again", "refresh": True}


def schedules(*, statistics: bool = True) -> dict[str, Any]:
    """Name -> meaning, phases, and when the result is kept (manifest's ``schedules``).

    Without ``statistics`` of the cloud's classes there is no closed form: it would know the new class only.
    """
    every = _schedules()
    if statistics:
        return every
    trained = {n: {**s, "phases": [p for p in s["phases"] if p["kind"] == "train"]} for n, s in every.items()}
    return {name: schedule for name, schedule in trained.items() if schedule["phases"]}


def _schedules() -> dict[str, Any]:
    return {
        "auto": _schedule("the phase that does best on held-back samples", [SOLVE, NEW, REPLAY, AGAIN], 0.03),
        "closed-form": _schedule("streaming LDA on frozen features", [SOLVE], 1.0),
        "nearest-mean": _schedule(
            "nearest class mean on frozen features",
            [{**SOLVE, "name": "nearest mean", "shrinkage": 1.0}],
            1.0,
        ),
        "centre-taps": _schedule(
            "phases A and B, then the closed form on what they learned", [NEW, REPLAY, AGAIN], 1.0
        ),
        "replay": _schedule("phases A and B whatever the check says", [NEW, REPLAY], 1.0),
        "fine-tune": _schedule(
            "plain fine-tuning on the new images, no replay, no freezing: the baseline that forgets",
            [{**NEW, "name": "fine-tune", "freeze": 0.0, "epochs": 12, "learning_rate": 0.005}],
            1.0,
        ),
    }


def _schedule(meaning: str, phases: list[dict[str, Any]], max_old_loss: float) -> dict[str, Any]:
    return {"meaning": meaning, "phases": phases, "accept": {"max_old_loss": max_old_loss}}


def hyper(options: StepOptions, groups: Iterable[str]) -> dict[str, Any]:
    """Name -> default, range and meaning (manifest's ``hyper``): the step's, and the closed form's."""
    shrinkage = (SHRINKAGE, 0.0, 1.0, "share of the identity in the closed form's covariance")
    return {
        name: {"default": default, "min": low, "max": high, "meaning": meaning}
        for name, (default, low, high, meaning) in {**options.hyper(groups), "shrinkage": shrinkage}.items()
    }
