"""One story told by Python on each runtime, for Kotlin to repeat: state before, the same update, predictions after."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from adoptions import NEW, write_adoptions
from raw import write_raw
from variants import write_variant

from pocketstep_device import Learner
from pocketstep_device.bundle import Bundle
from pocketstep_device.forecast import forecast
from pocketstep_device.target_pack import TargetPack
from pocketstep_device.validation import validate

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
        write_lesson(bundle, out / runtime, runtime, test)
        write_paths(bundle, out / runtime, runtime, train, test)
        write_bare(bundle, out / runtime, runtime, train, test)
        write_adoptions(bundle, out, runtime)
        write_validation(bundle, out / runtime / "validation.properties", runtime)
    write_forecast(bundle, out / "forecast.properties")


def write_lesson(bundle: Path, out: Path, runtime: str, test: Any) -> None:
    """A target pack of images without labels, by a teacher of all ten classes that is right but not sure."""
    from pocketstep.data import load_digits

    shown = load_digits(16)[0].per_class(12, seed=1)
    noise = np.random.default_rng(0).normal(0, 1, (len(shown), len(shown.classes)))
    logits = (6 * np.eye(len(shown.classes))[shown.labels] + noise).astype(np.float32)
    with Learner.open(bundle, out / "taught", runtime) as learner:
        pack = TargetPack(shown.classes, learner.encode(shown.images), logits)
        pack.write(out / "unlabelled.pack", learner.bundle)
        report = learner.update(targets=out / "unlabelled.pack")
        write_raw(out / "targets.raw", learner.classify(test).probabilities)
    lines = {"accepted": report.accepted, "chosen": report.chosen, "steps": sum(p.steps for p in report.phases)}
    (out / "targets.properties").write_text("".join(f"{key}={value}\n" for key, value in lines.items()))


def write_paths(bundle: Path, out: Path, runtime: str, train: Any, test: Any) -> None:
    """The bundle with critical paths in what it trains: those of a new class learn ten times as fast."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    slots = manifest["task"]["slots"]
    trained = {tensor["name"]: tensor["shape"] for tensor in manifest["state"] if tensor["kind"] == "parameter"}
    axes = [
        (n, axis, size // slots) for n, shape in trained.items() for axis, size in enumerate(shape) if not size % slots
    ]
    replay = manifest["schedules"]["replay"]
    phases = [{**phase, "max_steps": 20, "new_paths": 10.0} for phase in replay["phases"]]
    other = write_variant(
        bundle, out / "paths.bundle",
        plan={**manifest["plan"], "paths": [{"name": n, "axis": axis, "size": size} for n, axis, size in axes]},
        schedules={**manifest["schedules"], "replay": {**replay, "phases": phases}},
    )  # fmt: skip
    with Learner.open(other, out / "along-paths", runtime) as learner:
        learner.add_class(NEW)
        learner.observe(train, NEW)
        report = learner.update(method="replay")
        write_raw(out / "paths.raw", learner.classify(test).probabilities)
    (out / "paths.properties").write_text(f"steps={sum(p.steps for p in report.phases)}\n")


def write_bare(bundle: Path, out: Path, runtime: str, train: Any, test: Any) -> None:
    """The bundle without images, where ``auto`` ends with the closed form."""
    with Learner.open(write_variant(bundle, out / "bare.bundle", bare=True), out / "learned-bare", runtime) as learner:
        learner.add_class(NEW)
        learner.observe(train, NEW)
        report = learner.update()
        write_raw(out / "bare.raw", learner.classify(test).probabilities)
    (out / "bare.properties").write_text(f"reason={report.reason}\nphases={len(report.phases)}\n")


def write_validation(bundle: Path, path: Path, runtime: str) -> None:
    """What Python's own validation learns and answers."""
    learning = validate(bundle, runtime)["learning"]
    answers = ",".join(map(str, learning["predictions"]))
    path.write_text(f"accepted={str(learning['accepted']).lower()}\npredictions={answers}\n")


def write_forecast(bundle: Path, path: Path) -> None:
    """What an update with 100 replayed and 50 observed samples is foretold to take."""
    manifest = Bundle.open(bundle).manifest
    text = ""
    for runtime in ("litert", "executorch"):
        found = forecast(manifest, runtime, cloud=100, device=50, training=2, whole=runtime == "litert")
        text += f"{runtime}={found.program} {found.data} {found.disk}\n"
    path.write_text(text)


def digits() -> tuple[Any, Any]:
    """Training images of the new class, and all test images, uint8."""
    from pocketstep.data import load_digits

    train, test = load_digits(16)
    new = train.images[train.labels == train.classes.index(NEW)][:OBSERVED]
    return np.ascontiguousarray(new), np.ascontiguousarray(test.images)
