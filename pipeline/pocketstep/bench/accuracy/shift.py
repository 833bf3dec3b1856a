"""Another camera: a few labelled images of every known class, learned from the same base by every method."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pocketstep.bench.accuracy.material import Material, Settings
from pocketstep.bench.accuracy.stream import first_classes, per_class
from pocketstep.camera import CAMERAS
from pocketstep.data import Dataset
from pocketstep_device import Budget, Learner

Tell = Callable[[str], None]
CLOSED = {
    "nearest-mean": "nearest class mean",
    "linear": "streaming LDA",
    "closed-form": "closed form, classes' own covariances",
    "ridge": "recursive ridge",
    "closed-form-new": "LDA on the new images",
}
TRAINED = {
    "centre": {"centre-taps": "centre taps, then LDA", "replay": "centre taps, trained head", "auto": "auto"},
    "full": {"end-to-end": "all taps, trained head"},
}


def measure(
    settings: Settings, train: Dataset, test: Dataset, folder: Path, *, cameras: Sequence[str], cuts: Sequence[str],
    variants: Sequence[str], shown: int, test_per_class: int | None, seconds: float, runtime: str, threads: int,
    tell: Tell,
) -> dict[str, Any]:  # fmt: skip
    """Every cut, variant and camera: accuracy (mean per class) on the new camera's test images and on the original's.

    Args:
        settings: of the base; the cut is varied.
        train, test: in their own order.
        folder: keeps bases, bundles and latents.
        cameras: names of ``CAMERAS``.
        cuts: names of ``CUTS``.
        variants: ``centre`` and ``full``.
        shown: labelled images of each class.
        test_per_class: None for all.
        seconds: most of an update.
        runtime, threads: where programs run.
        tell: progress.
    """
    known = settings.first
    rows: list[dict[str, Any]] = []
    for cut in cuts:
        material = Material.of(train, test, replace(settings, cut=cut), folder, tell)
        probes = first_classes(material.test, known).per_class(test_per_class or len(test), 0)
        pupils, _ = material.cloud
        few = pupils.per_class(shown, settings.seed)
        for variant in variants:
            bundle = material.bundle(variant, runtime)
            methods = {**(CLOSED if variant == "centre" else {}), **TRAINED[variant]}
            for camera in cameras:
                lens = CAMERAS[camera]
                sets = (lens.shoot(few.images, 1), lens.shoot(probes.images, 2), probes.images)
                with Learner.open(bundle, folder / "shift-encoding.state", runtime, threads) as learner:
                    seen, *asked = (learner.encode(images) for images in sets)
                    before = [_accuracy(learner, a, probes) for a in asked]
                rows.append(_row(cut, variant, camera, "before", "as it is", before, 0.0, ""))
                for method, title in methods.items():
                    state = folder / "shift.state"
                    shutil.rmtree(state, ignore_errors=True)
                    with Learner.open(bundle, state, runtime, threads) as learner:
                        for label, name in enumerate(few.classes):
                            learner.observe_latents(seen[few.labels == label], name)
                        start = time.perf_counter()
                        report = learner.update(Budget(seconds=seconds), method=method)
                        took = time.perf_counter() - start
                        after = [_accuracy(learner, a, probes) for a in asked]
                    rows.append(_row(cut, variant, camera, method, title, after, took, report.chosen))
                    tell(f"{camera}, cut {cut}, {variant}, {title}: {after[0]:.1%}, original {after[1]:.1%}")
    return {
        "shown": shown,
        "seconds": seconds,
        "classes": known,
        "test_images": len(probes),
        "runtime": runtime,
        "rows": rows,
    }


def _accuracy(learner: Learner, latents: Any, probes: Dataset) -> float:
    slots = {name: slot for slot, name in enumerate(probes.classes)}
    found = np.array([slots[name] for name in learner.classify_latents(latents).labels])
    return float(per_class(found, probes.labels, len(probes.classes)).mean())


def _row(
    cut: str, variant: str, camera: str, method: str, title: str, found: list[float], seconds: float, chosen: str
) -> dict[str, Any]:
    return {
        "cut": cut, "variant": variant, "camera": camera, "method": method, "title": title, "shifted": found[0],
        "original": found[1], "seconds": seconds, "chosen": chosen,
    }  # fmt: skip
