"""``pocketstep demo``: every step the real one, every figure computed."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pocketstep import __version__
from pocketstep.assemble import build_bundle
from pocketstep.blueprint import request_of
from pocketstep.camera import CAMERAS
from pocketstep.console import Console
from pocketstep.demo.report import write_report
from pocketstep.export import RUNTIMES
from pocketstep.export.run import Exporters
from pocketstep.recipe import Recipe, load_recipe
from pocketstep.stages import Material, Trained, Watching, compress, load_material, train_teacher
from pocketstep_device.bundle import Bundle
from pocketstep_device.errors import CheckFailedError, InputError

DEVICE_RUNTIMES = ("litert", "executorch")
DEVICE_PYTHON = "POCKETSTEP_DEVICE_PYTHON"
OBSERVED, SHIFTED, CAMERA = 100, 20, "night"
STORY = Path(__file__).with_name("device_story.py")


class Clock:
    """Seconds by part of the demo."""

    def __init__(self) -> None:
        self.start, self.seconds = time.monotonic(), {}  # type: float, dict[str, float]

    @contextmanager
    def part(self, name: str) -> Any:
        """Adds the time spent inside to a part."""
        began = time.monotonic()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - began

    def total(self) -> dict[str, float]:
        """All parts and the whole."""
        return {"total": time.monotonic() - self.start, **self.seconds}


def demo(out: Path, runtimes: Sequence[str], console: Console) -> dict[str, Any]:
    """Runs the story and writes ``digits.bundle``, ``results.json`` and ``report.html`` into ``out``.

    Args:
        out: folder; what an earlier demo left there is replaced.
        runtimes: on which of ``litert`` and ``executorch`` the device learns.
        console: progress for people.

    Returns:
        The results that the report shows.

    Raises:
        InputError: ``out`` holds something that is no demo's.
        CheckFailedError: an export or a device process failed.
    """
    prepare_folder(out)
    clock, recipe = Clock(), load_recipe("digits")
    with Exporters(list(RUNTIMES), console.exported) as exporters:
        material, watching = load_material(recipe), Watching(console.training, console.training_step)
        with clock.part("teacher"):
            teacher = train_teacher(recipe, material, watching)
        with clock.part("compress"):
            student = compress(recipe, material, teacher.network, watching)
        with clock.part("compile and export"):
            request = request_of(recipe, material.cloud)
            bundle = build_bundle(
                student.network, teacher.network, request, material.cloud, material.held_back, out / "digits.bundle",
                exporters, console.stage,
            )  # fmt: skip
    write_images(out / "device" / "images.npz", material)
    results = describe(recipe, material, teacher, student, bundle)
    for runtime in runtimes:
        with clock.part("device"):
            console.stage(f"device process on {runtime}")
            results["runtimes"][runtime] = device(runtime, out)
    results["seconds"] = clock.total()
    (out / "results.json").write_text(json.dumps(results, indent=1))
    write_report(results, out / "report.html")
    return results


def prepare_folder(out: Path) -> None:
    """An empty folder, or one with an earlier demo, whose device states are removed."""
    ours = {"digits.bundle", "digits.bundle.programs", "device", "results.json", "report.html"}
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; give a folder with --out")
    if out.is_dir() and (foreign := sorted(p.name for p in out.iterdir() if p.name not in ours)):
        raise InputError(f"{out} holds {foreign[0]}, which is no demo's; give another folder with --out")
    shutil.rmtree(out / "device", ignore_errors=True)
    (out / "device").mkdir(parents=True)


def write_images(path: Path, material: Material) -> None:
    """What the device will see: test images, images of the new class, and both under another camera."""
    train, test, camera = material.train, material.test, CAMERAS[CAMERA]
    names = np.array(train.classes)
    new = train.classes[len(material.cloud.classes)]
    few = train.per_class(SHIFTED, seed=1)
    np.savez(
        path,
        new_class=np.array(new),
        new_images=train.images[names[train.labels] == new][:OBSERVED],
        test=test.images,
        test_labels=names[test.labels],
        camera=np.array(CAMERA),
        test_shifted=camera.shoot(test.images, 1),
        shifted=camera.shoot(few.images, 2),
        shifted_labels=names[few.labels],
    )


def device(runtime: str, out: Path) -> dict[str, Any]:
    """Two processes: one learns, the next finds what was learned.

    LiteRT runs in the interpreter that ``POCKETSTEP_DEVICE_PYTHON`` names, an environment without torch;
    ExecuTorch's wheel needs torch, so it runs in this one.
    """
    python = os.environ.get(DEVICE_PYTHON, sys.executable) if runtime == "litert" else sys.executable
    results = _story(python, "learn", out, runtime)
    after = _story(python, "restart", out, runtime)
    learned = results["act1"]["rows"][0]
    if results["golden"]["worst"] > results["golden"]["tolerance"]:
        worst = results["golden"]["worst"]
        raise CheckFailedError(f"the golden replay on {runtime} is off by {worst:.1e}; please report this machine")
    same = all(after[name] == learned[name] for name in ("old", "new"))
    if not same:
        raise CheckFailedError(f"after a restart on {runtime} the device answers differently; please report this")
    results["act1"]["restart"] = {"old": after["old"], "new": after["new"], "same": same}
    return results


def _story(python: str, act: str, out: Path, runtime: str) -> dict[str, Any]:
    command = [python, str(STORY), act, str(out / "digits.bundle"), str(out / "device"), runtime]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-3:]
        raise CheckFailedError(f"the device process on {runtime} failed: {' '.join(last)}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def describe(recipe: Recipe, material: Material, teacher: Trained, student: Trained, bundle: Bundle) -> dict[str, Any]:
    """Everything about the cloud's side and the bundle."""
    manifest = bundle.manifest
    layers = student.thinned.layers if student.thinned else ()
    return {
        "version": __version__,
        "machine": {"cpu": _cpu(), "cores": os.cpu_count() or 0, "python": platform.python_version()},
        "cloud": {
            "teacher": teacher.figures(),
            "student": student.figures(),
            "threshold": recipe.compress.threshold,
            "layers": [
                {
                    "name": layer.name,
                    "before": layer.before,
                    "after": layer.after,
                    "zero_share": layer.zero_share,
                }
                for layer in layers
            ],
        },
        "plan": {
            "cut": manifest.plan.cut,
            "parameters": [
                {"name": p.name, "role": p.role, "shape": list(p.shape), "trained": p.trained}
                for p in manifest.plan.parameters
            ],
            "trained_parameters": int(manifest.cost["bytes.trained"]) // 4,
            "all_parameters": int(manifest.cost["bytes.parameters"]) // 4,
        },
        "bundle": {
            "files": {name: entry.bytes for name, entry in manifest.files.items()},
            "bytes": sum(entry.bytes for entry in manifest.files.values()),
            "latent_bytes": int(manifest.cost["bytes.latent"]),
        },
        "old_classes": list(material.cloud.classes),
        "new_class": material.train.classes[len(material.cloud.classes)],
        "observed": int(min(OBSERVED, (material.train.labels == len(material.cloud.classes)).sum())),
        "runtimes": {},
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
