"""pocketstep itself, through its commands: export once, then `bench step` and `bench memory` on the bundle.

A step starts from latents; what lies before the cut runs once an image, in `encode`, whose time is in the notes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import measure
import networks

PACKAGES = (measure.ROOT / "pipeline", measure.ROOT / "on_device")
_MODULES = ("assemble", "blueprint", "describe", "golden", "plan", "request", "schedules", "targets", "user_model")
MAKERS = (
    "pocketstep/compile/**/*.py",
    "pocketstep/export/*.py",
    "pocketstep_device/manifest*.py",
    *(f"pocketstep/{name}.py" for name in _MODULES),
)
"""What bundles depend on; the rest of pocketstep may change without making them again."""
RUNTIMES = ("litert", "executorch")
NOTES = "SGD with momentum, from int8 latents; loss has distillation; program has all signatures and the state"
EVERY_KERNEL = "all: every kernel behind the first convolution, all taps, and the head; no biases"
ALL = {  # every kernel behind the first convolution
    "small": ["--cut", "stem", "--train", "b*=full"],
    "resnet18": ["--cut", "maxpool", "--train", "layer*=full"],
    "mobilenet_v2": ["--cut", "features.0", "--train", "features.[1-9]*=full"],
}
CHEAP = {
    "centre": "gradient through the centre alone",
    "last": "centre taps of the last block, gradient through the centre alone",
}


def main() -> None:
    """Prints one line of JSON."""
    parser = measure.parser("pocketstep")
    parser.add_argument("--runtime", required=True, choices=RUNTIMES)
    parser.add_argument("--cheap", action="store_true", help="the same layers with less arithmetic")
    parser.add_argument("--skip-memory", action="store_true", help="measure time only")
    options = parser.parse_args()
    try:
        result = bench(options)
    except measure.RivalError as error:
        result = {"error": str(error)}
    name = f"pocketstep-{options.runtime}{'-cheap' if options.cheap else ''}"
    heading = {"rival": name, "network": options.network, "plan": options.plan}
    print(json.dumps({**heading, "version": _version(), **result}))


def bench(options: argparse.Namespace) -> dict[str, Any]:
    """Time, memory and size of a bundle's step."""
    arguments, note = plan_arguments(options.network, options.plan, options.cheap)
    bundle = exported(options.network, f"{options.plan}{'-cheap' if options.cheap else ''}", options.batch, arguments)
    if options.prepare:
        return {"program_bytes": measure.size_of(bundle)}
    runtime = ["--runtime", options.runtime, "--json"]
    times = ["--threads", str(options.threads), "--repeat", str(options.repeat), "--rounds", "1"]
    row = json.loads(pocketstep("bench", "step", bundle, *times, *runtime))["rows"][0]
    seconds, fastest = row["seconds"], row["fastest"]["step"]
    result = {"seconds": seconds["step"], "fastest": fastest, "encode_seconds": seconds["encode"], "notes": note}
    result["over_exact"] = row["over_exact"]
    if options.skip_memory:
        return result
    rows = json.loads(pocketstep("bench", "memory", bundle, "--threads", str(options.threads), *runtime))["rows"]
    row = next(row for row in rows if row["signature"] == "step")
    size = row["program_bytes"] + (bundle / "state.safetensors").stat().st_size
    return {**result, "resident_mb": round(row["resident_mb"], 1), "program_bytes": size}


def plan_arguments(network: str, plan: str, cheap: bool) -> tuple[list[str], str]:
    """Options of ``pocketstep export`` for a plan, and what a reader of the table must know of them.

    Raises:
        measure.RivalError: there is nothing cheaper than this plan.
    """
    if cheap and plan not in CHEAP:
        raise measure.RivalError(f"cheaper forms are measured of {' and '.join(CHEAP)}")
    cut = networks.CUTS[network].get(plan)
    arguments = ["--plan", "centre" if cheap else plan, *(["--cut", cut] if cut else [])]
    if plan == "all":
        arguments = ["--plan", "full", *ALL[network]]
    if cheap:
        arguments += ["--input-gradient", "centre"]
    plans = "; ".join(f"{name}: {text}" for name, text in CHEAP.items()) if cheap else EVERY_KERNEL
    return arguments, f"{NOTES}; {plans}"


def exported(network: str, name: str, batch: int, arguments: list[str]) -> Path:
    """The bundle of a network and plan; made once for each state of pocketstep's sources."""
    bundle = measure.WORK / f"bundles-{_sources()}" / f"{network}-{name}-{batch}.bundle"
    if bundle.exists():
        return bundle
    bundle.parent.mkdir(parents=True, exist_ok=True)
    shape = ",".join(str(size) for size in networks.INPUTS[network])
    with tempfile.TemporaryDirectory(dir=bundle.parent) as folder:
        classes = Path(folder) / "classes.txt"
        classes.write_text("\n".join(f"class {number}" for number in range(networks.CLASSES)))
        made = Path(folder) / bundle.name
        pocketstep(
            "export", "--model", f"networks:{network}", "--input", shape, "--classes", classes,
            *arguments, "--batch", str(batch), "--runtime", ",".join(RUNTIMES), "-o", made,
        )  # fmt: skip
        shutil.move(made, bundle)
    return bundle


def pocketstep(*arguments: str | Path) -> str:
    """What a command of pocketstep prints.

    Raises:
        measure.RivalError: the command failed; its last line of stderr.
    """
    path = os.pathsep.join(str(folder) for folder in (*PACKAGES, measure.HERE))
    command = [sys.executable, "-m", "pocketstep", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    sys.stderr.write(done.stderr)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        raise measure.RivalError(f"pocketstep {arguments[0]}: {lines[-1].removeprefix('pocketstep: ')}")
    return done.stdout


def _sources() -> str:
    """The state of what bundles are made by."""
    files = sorted(file for pattern in MAKERS for folder in PACKAGES for file in folder.glob(pattern))
    return measure.digest((*map(str, files), "networks.py"))


def _version() -> str:
    text = (PACKAGES[0] / "pocketstep" / "__init__.py").read_text()
    return next((line.split('"')[1] for line in text.splitlines() if line.startswith("__version__")), "")


if __name__ == "__main__":
    main()
