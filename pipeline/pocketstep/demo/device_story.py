"""What the demo's device does, as a program of its own: numpy, one runtime and pocketstep_device, no torch.

    python device_story.py learn|restart BUNDLE FOLDER RUNTIME

FOLDER has ``images.npz``; states are made in it. Prints one JSON object.
"""

from __future__ import annotations

import json
import platform
import shutil
import sys
import time
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pocketstep_device import Learner
from pocketstep_device.bundle import Bundle
from pocketstep_device.golden import TOLERANCE, by_signature, replay
from pocketstep_device.machine import Machine

Images = npt.NDArray[np.uint8]
ACT_ONE = {
    "auto": "auto",
    "closed-form": "closed form",
    "nearest-mean": "nearest class mean",
    "replay": "centre taps, trained head",
    "fine-tune": "plain fine-tuning",
}
ACT_TWO = {"closed-form": "closed form", "centre-taps": "centre taps", "auto": "auto"}


class Story:
    """One device and the images it meets."""

    def __init__(self, bundle: str, folder: str, runtime: str):
        self.bundle, self.folder, self.runtime = bundle, Path(folder), runtime
        self.data = np.load(self.folder / "images.npz", allow_pickle=False)
        self.learned = self.folder / f"{runtime}-learned"

    def open(self, state: Path) -> Learner:
        """The learner over one state folder."""
        return Learner.open(self.bundle, state, self.runtime)

    def per_class(self, learner: Learner, images: str = "test") -> dict[str, float]:
        """Accuracy of every class on the test images."""
        labels = self.data["test_labels"]
        found = np.array(learner.classify(self.data[images]).labels)
        return {str(c): float((found[labels == c] == c).mean()) for c in np.unique(labels)}

    def split(self, per_class: dict[str, float]) -> dict[str, float]:
        """Means over old classes, the new one, and all."""
        new = str(self.data["new_class"])
        old = [value for name, value in per_class.items() if name != new]
        return {
            "old": sum(old) / len(old),
            "new": per_class[new],
            "mean": (sum(old) + per_class[new]) / (len(old) + 1),
        }

    def learn(self) -> dict[str, Any]:
        """Golden replay, then both acts."""
        result: dict[str, Any] = {"environment": environment(), **self.golden()}
        result["act1"], result["act2"] = self.act_one(), self.act_two()
        result["environment"]["torch_imported"] = "torch" in sys.modules
        return result

    def golden(self) -> dict[str, Any]:
        """Largest relative errors, and milliseconds of a batch."""
        bundle = Bundle.open(self.bundle)
        machine = Machine(bundle, self.runtime, 2)
        calls = [call for _ in range(3) for call in replay(bundle, machine)]
        reports = by_signature(calls)
        milliseconds = {name: report.median_ms for name, report in reports.items()}
        forward = milliseconds["encode"] + milliseconds["classify"]
        return {
            "golden": {
                "worst": max(report.worst for report in reports.values()),
                "tolerance": TOLERANCE,
                "calls": len(calls) // 3,
                "by_signature": {name: report.worst for name, report in reports.items()},
            },
            "timing": {
                **{f"{name}_ms": milliseconds[name] for name in ("encode", "classify", "step")},
                "forward_passes": milliseconds["step"] / forward,
                "batch": bundle.manifest.signatures["step"].batch,
            },
        }

    def act_one(self) -> dict[str, Any]:
        """The new class, by every method from the same start."""
        with self.open(self.folder / f"{self.runtime}-before") as learner:
            per_class = self.per_class(learner)
        before = {"per_class": per_class, **self.split(per_class)}
        rows = []
        for method, title in ACT_ONE.items():
            state = self.learned if method == "auto" else self.folder / f"{self.runtime}-{method}"
            with self.open(state) as learner:
                learner.add_class(str(self.data["new_class"]))
                learner.observe(self.data["new_images"], str(self.data["new_class"]))
                row = self.update(learner, method, title)
                row["per_class"] = self.per_class(learner)
                row.update(self.split(row["per_class"]))
                row["forgetting"] = before["old"] - row["old"]
            rows.append(row)
        return {"before": before, "rows": rows}

    def act_two(self) -> dict[str, Any]:
        """Another camera: a few labelled images of every class, by every method from the learned state."""
        with self.open(self.learned) as learner:
            before = self.both(learner)
        rows = []
        for method, title in ACT_TWO.items():
            state = self.folder / f"{self.runtime}-shifted-{method}"
            shutil.copytree(self.learned, state)
            with self.open(state) as learner:
                for name in learner.classes:
                    learner.observe(self.data["shifted"][self.data["shifted_labels"] == name], name)
                row = self.update(learner, method, title)
                row.update(self.both(learner))
            rows.append(row)
        count = int((self.data["shifted_labels"] == self.data["shifted_labels"][0]).sum())
        return {"camera": str(self.data["camera"]), "images_per_class": count, "before": before, "rows": rows}

    def both(self, learner: Learner) -> dict[str, float]:
        """Mean per-class accuracy under the other camera and under the original one."""
        shifted, original = (self.split(self.per_class(learner, name))["mean"] for name in ("test_shifted", "test"))
        return {"shifted": shifted, "original": original}

    def update(self, learner: Learner, method: str, title: str) -> dict[str, Any]:
        """One update and what it cost."""
        start = time.monotonic()
        report = learner.update(method=method)
        return {
            "method": method,
            "title": title,
            "accepted": report.accepted,
            "chosen": report.chosen,
            "seconds": time.monotonic() - start,
            "peak_memory_mb": report.peak_memory_mb,
            "phases": [asdict(phase) for phase in report.phases],
        }

    def restart(self) -> dict[str, Any]:
        """A new process opens what the first one learned."""
        with self.open(self.learned) as learner:
            return self.split(self.per_class(learner))


def environment() -> dict[str, Any]:
    """The interpreter and the packages that this device has."""
    names = {d.metadata["Name"]: d.version for d in metadata.distributions() if d.metadata["Name"]}
    wanted = ("numpy", "ai-edge-litert", "tflite-runtime", "executorch", "torch", "pocketstep-device")
    return {"python": platform.python_version(), "packages": {n: names[n] for n in wanted if n in names}}


def main() -> int:
    """One act of the story."""
    act, bundle, folder, runtime = sys.argv[1:5]
    story = Story(bundle, folder, runtime)
    result = story.learn() if act == "learn" else story.restart()
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
