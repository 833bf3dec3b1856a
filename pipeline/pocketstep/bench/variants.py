"""What cheaper gradients and smaller programs cost in accuracy: one student, several bundles, the same update.

Every bundle meets the same images under another camera, learns from a few of them with its ``centre-taps`` schedule,
and is judged on the rest.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pocketstep.assemble import build_bundle
from pocketstep.blueprint import request_of
from pocketstep.build import Workshop
from pocketstep.camera import CAMERAS
from pocketstep.console import Console
from pocketstep.data import Dataset
from pocketstep.export.run import Exporters
from pocketstep.request import Request
from pocketstep_device import Learner
from pocketstep_device.bundle import Bundle

CAMERA = "night"
SHOWN = 15
"""Images of each class that the device sees under the other camera."""
UPDATES = 3
"""Updates from the same start, each shown other images."""
VARIANTS: dict[str, Callable[[Request], Request]] = {
    "exact gradient, kernels shared": lambda r: replace(r, allowance=0.0),
    "exact gradient, second constants": lambda r: replace(r, allowance=10.0),
    "gradient through the centre": lambda r: replace(r, input_gradient="centre"),
    "gradient filter 2x2": lambda r: replace(r, gradient_filter=True),
    "int8 prefix": lambda r: replace(r, prefix_bits=8),
}


def measure(recipe: str, folder: Path, console: Console) -> dict[str, Any]:
    """Builds every variant for LiteRT and lets each learn.

    Args:
        recipe: a file or a name.
        folder: for stages, bundles and states; kept, so that a second run is quicker.
        console: progress for people.

    Returns:
        ``rows``: for each variant the program's bytes, ``macs.step``, accuracy on the cloud's test images and, under
        the other camera, before and after an update (mean and spread over seeds).
    """
    workshop = Workshop(recipe, folder / "stages")
    student, teacher = workshop.student(console).network, workshop.teacher(console).network
    material = workshop.material
    request = request_of(workshop.recipe, material.cloud)
    rows = []
    for index, (name, change) in enumerate(VARIANTS.items()):
        console.stage(name)
        with Exporters(["litert"]) as exporters:
            bundle = build_bundle(
                student, teacher, change(request), material.cloud, material.held_back, folder / f"{index}.bundle",
                exporters, lambda stage: None,
            )  # fmt: skip
        rows.append(
            {"variant": name, **_facts(bundle), **_learned(bundle, material.cloud, material.cloud_test, folder)}
        )
    return {"recipe": recipe, "camera": CAMERA, "rows": rows}


def _facts(bundle: Bundle) -> dict[str, float]:
    manifest = bundle.manifest
    plain = manifest.cost["bytes.parameters"]
    size = manifest.files[manifest.runtimes["litert"].file].bytes
    return {"program_bytes": size, "plain_bytes": plain, "macs.step": manifest.cost["macs.step"]}


def _learned(bundle: Bundle, cloud: Dataset, test: Dataset, folder: Path) -> dict[str, Any]:
    camera, names = CAMERAS[CAMERA], np.array(test.classes)
    dark = camera.shoot(test.images, 1)
    clean, before, after = 0.0, 0.0, []
    for seed in range(UPDATES):
        state = folder / f"{bundle.path.stem}-{seed}.state"
        shutil.rmtree(state, ignore_errors=True)
        few = cloud.per_class(SHOWN, seed)
        shown = camera.shoot(few.images, seed + 2)
        with Learner.open(bundle.path, state) as learner:
            clean, before = (_accuracy(learner, images, test, names) for images in (test.images, dark))
            for label, name in enumerate(few.classes):
                learner.observe(shown[few.labels == label], name)
            learner.update(method="centre-taps")
            after.append(_accuracy(learner, dark, test, names))
    return {"clean": clean, "before": before, "after": float(np.mean(after)), "spread": float(np.std(after))}


def _accuracy(learner: Learner, images: Any, test: Dataset, names: Any) -> float:
    found = np.array(learner.classify(images).labels)
    return float(np.mean([(found[test.labels == c] == names[c]).mean() for c in range(len(names))]))
