"""Puts what bundles foretell of an update's memory beside what updates take, in a fresh process each.

    python tests/device/forecasts.py FOLDER --bundle digits.bundle --repeat 3 > forecasts.json

Builds bundles of torchvision's networks (64x64, untrained, made-up pictures) in FOLDER, as a user does, and keeps them
there for the next time; ``--bundle`` adds one that exists. For each bundle and runtime: the forecast, and the peaks of
``--repeat`` updates. Prints one JSON object, and a table for SAFETY.md to stderr. Linux on x86-64, both runtimes.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pocketstep.bench.memory import IMAGES, UPDATE
from pocketstep.bench.process import WorkerProcess
from pocketstep_device.bundle import Bundle
from pocketstep_device.shipped import cloud_samples

RUNTIMES = ("litert", "executorch")
SIDE, CLASSES, PICTURES = 64, 10, 40
THREADS = 2
BUNDLES = {
    "MobileNetV2 cut after `features.6`": "mobilenet_v2 --cut features.6 --batch 32 --replay 8",
    "MobileNetV2 cut after `features.13`, last block":
        "mobilenet_v2 --plan last --cut features.13 --batch 4 --replay 22",
    "SqueezeNet 1.1 cut after `features.8`": "squeezenet1_1 --cut features.8 --batch 8 --replay 22",
    "ResNet-18, head only": "resnet18 --plan head --batch 64 --replay 22",
    "ResNet-18 cut after `layer3`": "resnet18 --cut layer3 --batch 16 --replay 8",
    "ResNet-18 cut after `layer1`": "resnet18 --cut layer1 --batch 8 --replay 22",
}  # fmt: skip
"""Name in the table -> network and options of ``pocketstep export``."""


def make_pictures(folder: Path) -> Path:
    """Smooth noise, a folder a class; held-back ones among them."""
    chance = np.random.default_rng(0)
    for label in range(CLASSES):
        (folder / f"class {label}").mkdir(parents=True, exist_ok=True)
        for number in range(PICTURES):
            small = chance.integers(0, 256, (8, 8, 3), np.uint8)
            path = folder / f"class {label}" / f"{number}.png"
            Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.BILINEAR).save(path)
    return folder


def build(folder: Path, name: str) -> Path:
    """One of :data:`BUNDLES`, or what was built of it before."""
    words = BUNDLES[name].split()
    target = folder / ("-".join(words).replace("--", "") + ".bundle")
    if target.exists():
        return target
    pictures, names = make_pictures(folder / "pictures"), folder / "names.txt"
    names.write_text("".join(f"class {label}\n" for label in range(CLASSES)))
    command = [sys.executable, "-m", "pocketstep", "export", "--model", f"torchvision.models:{words[0]}", *words[1:]]
    command += ["--input", f"3,{SIDE},{SIDE}", "--classes", str(names), "--images", str(pictures)]
    subprocess.run([*command, "--runtime", ",".join(RUNTIMES), "-o", str(target)], check=True, stdout=sys.stderr)
    return target


def measure(path: Path, name: str, runtime: str, repeat: int) -> dict[str, Any]:
    """The forecast, and the peaks of updates in fresh processes, MiB above idle."""
    bundle, answers = Bundle.open(path), list[dict[str, Any]]()
    for _ in range(repeat):
        with WorkerProcess(f"{path} on {runtime}") as worker:
            order = {"bundle": str(path), "runtime": runtime, "threads": THREADS, "images": IMAGES}
            answers.append(worker.ask(UPDATE, **order))
    measured = sorted(round(answer["resident_mb"], 1) for answer in answers)
    return {
        "bundle": name,
        "runtime": runtime,
        "batch": bundle.manifest.signatures["classify"].batch,
        "latent_bytes": math.prod(bundle.manifest.latent.shape),
        "replayed": len(cloud_samples(bundle)),
        "program_mb": round(bundle.manifest.cost.get(f"bytes.resident.{runtime}", 0) / 2**20, 1),
        "foretold_mb": round(answers[0]["forecast_mb"], 1),
        "measured_mb": measured,
        "error": [round(answers[0]["forecast_mb"] / found - 1, 3) for found in measured],
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Lines of Markdown."""
    lines = ["| bundle: batch, latent, replayed | runtime | foretold | measured | error |", "|---|---|--:|--:|--:|"]
    for row in rows:
        about = f"{row['bundle']}: {row['batch']}, {row['latent_bytes'] / 1024:.1f} KiB, {row['replayed']}"
        span = " to ".join(f"{value:.1f}" for value in dict.fromkeys((row["measured_mb"][0], row["measured_mb"][-1])))
        error = " to ".join(f"{value:+.1%}" for value in dict.fromkeys((row["error"][0], row["error"][-1])))
        lines.append(f"| {about} | {row['runtime']} | {row['foretold_mb']:.1f} | {span} | {error} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for the bundles")
    parser.add_argument("--bundle", type=Path, action="append", default=[], help="one that exists; may be repeated")
    parser.add_argument("--only", default="", help="bundles with this in their name")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    rows = []
    chosen = [name for name in BUNDLES if options.only in name]
    for name, path in [*((b.stem, b) for b in options.bundle), *((n, build(options.folder, n)) for n in chosen)]:
        for runtime in RUNTIMES:
            rows.append(measure(path, name, runtime, options.repeat))
            sys.stderr.write(f"{rows[-1]}\n")
    sys.stderr.write(table(rows) + "\n")
    json.dump(rows, sys.stdout, indent=1)
    sys.stdout.write("\n")
    return 0 if all(abs(error) <= 0.15 for row in rows for error in row["error"]) else 1


if __name__ == "__main__":
    raise SystemExit(main())
