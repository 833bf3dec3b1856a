"""One story told by Python on each runtime, for Kotlin to repeat: state before, the same update, predictions after."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from raw import write_raw

from pocketstep_device import Learner

NEW = "9"
OBSERVED = 40
METHODS = ("closed-form", "auto", "replay")


def write_exchange(bundle: Path, out: Path) -> None:
    """Images; for each runtime ``first`` (a class more), ``before`` (to be learned), ``after-METHOD``; predictions."""
    train, test = digits()
    write_raw(out / "images" / "train.raw", train)
    write_raw(out / "images" / "test.raw", test)
    for runtime in ("litert", "executorch"):
        with Learner.open(bundle, out / runtime / "first", runtime) as learner:
            learner.add_class("ç 東 \U0001f600")
        before = out / runtime / "before"
        with Learner.open(bundle, before, runtime) as learner:
            write_raw(out / runtime / "before.raw", learner.classify(test).probabilities)
            learner.add_class(NEW)
            learner.observe(train, NEW)
        for method in METHODS:
            after = out / runtime / f"after-{method}"
            shutil.copytree(before, after)
            with Learner.open(bundle, after, runtime) as learner:
                report = learner.update(method=method)
                write_raw(out / runtime / f"{method}.raw", learner.classify(test).probabilities)
            lines = {"accepted": report.accepted, "chosen": report.chosen, "steps": sum(p.steps for p in report.phases)}
            text = "".join(f"{key}={value}\n" for key, value in lines.items())
            (out / runtime / f"{method}.properties").write_text(text)


def digits() -> tuple[Any, Any]:
    """Training images of the new class, and all test images, uint8."""
    from pocketstep.data import load_digits

    train, test = load_digits(16)
    new = train.images[train.labels == train.classes.index(NEW)][:OBSERVED]
    return np.ascontiguousarray(new), np.ascontiguousarray(test.images)
