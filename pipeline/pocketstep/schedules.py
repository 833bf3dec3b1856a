"""What an update does, as data for the manifest; the harnesses only follow it.

``auto`` is phase by phase (design: closed form at once, phase A on new data, phase B with replay, closed form again);
the device takes the phase that does best on held-back samples. The others are baselines on the same latents.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pocketstep.compile import projection
from pocketstep.compile.options import DEFAULT, StepOptions

SHRINKAGE = 0.05
NEW_PATHS = 10.0
"""How much faster the paths of new classes learn (TeAM, section 3.2)."""
LINEAR: dict[str, Any] = {"kind": "solve", "name": "closed form", "shrinkage": SHRINKAGE}
SOLVE: dict[str, Any] = {**LINEAR, "own": 1.0}
NEW: dict[str, Any] = {
    "kind": "train",
    "name": "A: new data",
    "rows": "new",
    "epochs": 4,
    "max_steps": 100,
    "learning_rate": 0.003,
    "freeze": 0.5,
    "distillation": 0.0,
}
REPLAY: dict[str, Any] = {
    "kind": "train",
    "name": "B: replay",
    "rows": "all",
    "epochs": 40,
    "max_steps": 400,
    "learning_rate": 0.01,
    "distillation": 1.0,
    "temperature": 2.0,
}
TAUGHT = {**REPLAY, "name": "taught", "checks": 4}
TRANSFER = {"logits": ("logit_transfer", 0.1), "features": ("feature_transfer", 0.5)}
"""Losses that only target packs weigh, their rates, and Zhao et al.'s weights of J1 and Jb."""
ENHANCE = {**REPLAY, "name": "enhance", "epochs": 20, "max_steps": 160, "learning_rate": 0.003}
"""Slower than an update that must make a class usable: a trained network's paths lose more at 0.01 than they gain."""
AGAIN: dict[str, Any] = {**SOLVE, "name": "closed form again", "refresh": True}


def schedules(
    *, statistics: bool = True, options: StepOptions = DEFAULT, paths: bool = False, directions: bool = True
) -> dict[str, Any]:
    """Name -> meaning, phases, and when the result is kept (manifest's ``schedules``).

    Without ``statistics`` of the cloud's classes there is no closed form: it would know the new class only.
    ``options`` that the step lacks (projection, prototypes) leave out what needs them. With ``paths`` those of new
    classes learn faster in every phase. Without ``directions`` no class has a covariance of its own.
    """
    every = {**_BASIC, **(_protected(options) if options.projection != "none" else {})}
    if options.with_teacher:
        every["targets"] = _schedule(
            "a target pack: images without labels, and what the teacher says of them",
            SOLVE, {**TAUGHT, **{rate: weight for loss, (rate, weight) in TRANSFER.items() if loss in options.losses}},
            AGAIN, checked=True,
        )  # fmt: skip
    if paths:
        every["enhance-own"] = _schedule(
            "the same, only the paths of classes that were observed: what a device of a fleet sends",
            {**ENHANCE, "other_paths": 0.0}, checked=True,
        )  # fmt: skip
        every = {n: {**s, "phases": [_new_paths_faster(p) for p in s["phases"]]} for n, s in every.items()}
    if not directions:
        every = {n: {**s, "phases": [_linear(p) for p in s["phases"]]} for n, s in every.items()}
    if statistics:
        return every
    trained = {n: {**s, "phases": [p for p in s["phases"] if p["kind"] == "train"]} for n, s in every.items()}
    return {name: schedule for name, schedule in trained.items() if schedule["phases"]}


def _new_paths_faster(phase: dict[str, Any]) -> dict[str, Any]:
    return {**phase, "new_paths": NEW_PATHS} if phase["kind"] == "train" else phase


def _linear(phase: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in phase.items() if key != "own"}


def _schedule(meaning: str, *phases: dict[str, Any], checked: bool = False) -> dict[str, Any]:
    """Only a ``checked`` update can be refused; a baseline is kept whatever it does."""
    mean, worst = (0.03, 0.5) if checked else (1.0, 1.0)
    return {
        "meaning": meaning,
        "phases": list(phases),
        "accept": {"max_old_loss": mean, "max_class_loss": worst},
    }


_BASIC: dict[str, Any] = {
    "auto": _schedule(
        "the phase that does best on held-back samples",
        SOLVE, NEW, {**REPLAY, "checks": 4}, AGAIN, checked=True,
    ),
    "closed-form": _schedule(
        "a discriminant on frozen features, quadratic in the directions in which classes have covariances of their own",
        SOLVE,
    ),
    "linear": _schedule("streaming LDA on frozen features: one covariance of all classes", LINEAR),
    "ridge": _schedule(
        "ridge regression on frozen features",
        {**LINEAR, "name": "ridge regression", "ridge": 1.0, "shrinkage": 0.003},
    ),
    "nearest-mean": _schedule(
        "nearest class mean on frozen features", {**LINEAR, "name": "nearest mean", "shrinkage": 1.0}
    ),
    "closed-form-new": _schedule(
        "streaming LDA that only knows the new images: a baseline under another camera",
        {**LINEAR, "name": "closed form, new images", "refresh": True, "rows": "new", "shrinkage": 0.3},
    ),
    "centre-taps": _schedule("phases A and B, then the closed form on what they learned", NEW, REPLAY, AGAIN),
    "enhance": _schedule(
        "what was observed and the replayed images, nothing frozen: a fleet's local epochs", ENHANCE, checked=True
    ),
    "enhance-in-turns": _schedule(
        "the same, first the head alone and then the body alone (FedRep)",
        {**ENHANCE, "name": "enhance the head", "factor.body": 0.0},
        {**ENHANCE, "name": "enhance the body", "factor.head": 0.0}, checked=True,
    ),
    "replay": _schedule("weight freezing: phases A and B whatever the check says", NEW, REPLAY),
    "end-to-end": _schedule(
        "phases A and B without freezing any weight: what weight freezing is compared with",
        {**NEW, "freeze": 0.0}, REPLAY,
    ),
    "without-forgetting": _schedule(
        "LwF: the new images, distilled to what the device said of them before, no replay",
        {**NEW, "name": "LwF", "freeze": 0.0, "epochs": 12, "learning_rate": 0.005, "distillation": 1.0},
    ),
    "fine-tune": _schedule(
        "plain fine-tuning on the new images, no replay, no freezing: the baseline that forgets",
        {**NEW, "name": "fine-tune", "freeze": 0.0, "epochs": 12, "learning_rate": 0.005},
    ),
}  # fmt: skip


def _protected(options: StepOptions) -> dict[str, Any]:
    """CsKO and its parts: channel selection, projection, prototypes; no replay of samples."""
    plain = {**NEW, "freeze": 0.0, "epochs": 12, "learning_rate": 0.005}
    if "prototypes" in options.losses:
        plain["prototype_replay"] = 10.0
    return {
        "prototypes": _schedule("new images and prototypes of the known classes", {**plain, "name": "prototypes"}),
        "selection": _schedule(
            "CsKO's channel selection: of each kernel the inputs that new images want",
            {**plain, "name": "selection", "channels": 0.75},
        ),
        "projection": _schedule(
            "CsKO's projection onto the null space of what was known",
            {**plain, "name": "projection", "project": "hard"},
        ),
        "soft-projection": _schedule(
            "updates faded where known inputs lie", {**plain, "name": "soft projection", "project": "soft"}
        ),
        "csko": _schedule(
            "CsKO: selection, projection and prototypes",
            {**plain, "name": "CsKO", "channels": 0.75, "project": "hard"},
        ),
    }  # fmt: skip


def hyper(options: StepOptions, groups: Iterable[str], *, directions: bool = False) -> dict[str, Any]:
    """Name -> default, range and meaning (manifest's ``hyper``): the step's, and the closed form's."""
    closed = {
        "shrinkage": (SHRINKAGE, 0.0, 1.0, "share of the identity in the closed form's covariance"),
        "ridge": (0.0, 0.0, 1.0, "closed form: 0 discriminant, 1 ridge regression"),
    }
    if directions:
        closed["own"] = (
            0.0,
            0.0,
            1.0,
            "closed form: 1 covariances of each class's own in some directions, 0 one of all",
        )
    rates = {**options.hyper(groups), **projection.hyper(options), **closed}
    return {
        name: {"default": default, "min": low, "max": high, "meaning": meaning}
        for name, (default, low, high, meaning) in rates.items()
    }
