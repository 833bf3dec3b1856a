"""What runs on a target, the same everywhere: the golden trace, a learning task, and a report (``VALIDATION.md``)."""

from __future__ import annotations

import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, NamedTuple

import pocketstep_device
from pocketstep_device.budget import peak_mb, reset_peak
from pocketstep_device.bundle import Bundle
from pocketstep_device.errors import MissingToolError, PocketstepError
from pocketstep_device.golden import TOLERANCE, by_signature, replay
from pocketstep_device.learning_check import learn, why_not
from pocketstep_device.machine import Machine
from pocketstep_device.runtimes import Array

FORMAT = 1
_PACKAGES = {
    "litert": ("ai_edge_litert", "ai-edge-litert"),
    "tflite": ("tflite_runtime", "tflite-runtime"),
    "executorch": ("executorch", "executorch"),
}
_TIMED = ("encode", "classify", "step")
_SETTLED_ROUNDS, _SETTLED_SECONDS, _MOST_SECONDS = 15, 0.5, 4.0
_FELL = 0.98
"""A least time has fallen where it is below this part of what it was."""
_PARTS = {"0xd03": "Cortex-A53", "0xd05": "Cortex-A55", "0xd08": "Cortex-A72", "0xd0b": "Cortex-A76",
          "0xd42": "Cortex-A78AE", "0xc0f": "Cortex-A15"}  # fmt: skip


def validate(
    path: str | os.PathLike[str],
    runtime: str,
    threads: int = 2,
    tolerance: float = TOLERANCE,
    learning: bool = True,
    trusted_keys: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Replays the trace and learns a made-up class; an error of ours ends in the report.

    Args:
        path: the bundle.
        runtime: ``litert``, ``tflite`` or ``executorch``; it must be this one, not one that stands in for it.
        threads: CPU threads.
        tolerance: largest relative error that passes.
        learning: whether to run the learning task.
        trusted_keys: see ``Bundle.open``.

    Returns:
        The report, ready for JSON but for infinite errors.
    """
    report: dict[str, Any] = {
        "format": FORMAT, "runtime": runtime, "runtime_version": "",
        "package_version": pocketstep_device.__version__, "bundle": "", "device": device(), "threads": threads,
        "golden": None, "signatures": None, "forward_passes": 0.0, "peak_memory_mb": 0.0, "learning": None,
        "notes": [], "passed": False, "error": None, "error_code": 0,
    }  # fmt: skip
    try:
        report["runtime_version"] = runtime_version(runtime)
        bundle = Bundle.open(path, trusted_keys)
        report["bundle"] = bundle.digest
        reset_peak()
        report.update(_replayed(bundle, Machine(bundle, runtime, threads), tolerance))
        if learning and (reason := why_not(bundle)):
            report["notes"].append(reason)
        elif learning:
            report["learning"] = asdict(learn(bundle, runtime, threads))
        report["peak_memory_mb"] = peak_mb()
    except PocketstepError as error:
        ended = {"golden": None, "signatures": None, "learning": None}
        return {**report, **ended, "error": str(error), "error_code": error.exit_code}
    report["passed"] = report["golden"]["passed"]
    return report


def _replayed(bundle: Bundle, machine: Machine, tolerance: float) -> dict[str, Any]:
    values: dict[str, Array] = {}
    calls = replay(bundle, machine, values)
    reports = {name: asdict(report) for name, report in by_signature(calls).items()}
    warm = warm_calls(machine, [name for name in _TIMED if name in reports], values)
    for name, timed in warm.items():
        reports[name]["median_ms"] = statistics.median(call.seconds for call in timed) * 1e3
    worst = max(call.worst for call in calls)
    listed = [{"index": c.index, "signature": c.signature, "worst": c.worst, "seconds": c.seconds} for c in calls]
    return {
        "golden": {"tolerance": tolerance, "worst": worst, "passed": worst <= tolerance, "calls": listed},
        "signatures": reports,
        "forward_passes": _forward_passes(bundle, warm),
    }


class Timed(NamedTuple):
    """One call: seconds, and seconds of processor time of all threads."""

    seconds: float
    processor: float


def warm_calls(machine: Machine, signatures: Sequence[str], values: dict[str, Array]) -> dict[str, list[Timed]]:
    """Calls after the trace's, in turns: until no least processor time has fallen for 15 rounds or half a second.

    A busy machine needs more rounds for that than an idle one; after 4 seconds it is enough.
    """
    found: dict[str, list[Timed]] = {name: [] for name in signatures}
    began = fell = time.perf_counter()
    rounds = 0
    while signatures and rounds < _SETTLED_ROUNDS:
        rounds += 1
        for name in signatures:
            start, processor = time.perf_counter(), time.process_time()
            machine.run(name, values)
            timed = Timed(time.perf_counter() - start, time.process_time() - processor)
            if timed.processor < _FELL * min((call.processor for call in found[name]), default=math.inf):
                rounds, fell = 0, time.perf_counter()
            found[name].append(timed)
        now = time.perf_counter()
        if now - fell > _SETTLED_SECONDS or now - began > _MOST_SECONDS:
            break
    return found


def _forward_passes(bundle: Bundle, warm: dict[str, list[Timed]]) -> float:
    """A step's least processor time an image over that of ``encode`` and ``classify``; 0 where the trace lacks one.

    Processor time, because on a busy machine even the shortest seconds of a run are up to twice those of another.
    """
    if not set(_TIMED) <= set(warm):
        return 0.0
    signatures = bundle.manifest.signatures
    each = {name: min(call.processor for call in warm[name]) / signatures[name].batch for name in _TIMED}
    forward = each["encode"] + each["classify"]
    return float(each["step"] / forward) if forward > 0 else 0.0


def runtime_version(runtime: str) -> str:
    """The runtime's package and version, such as ``ai-edge-litert 2.3.0``.

    Raises:
        MissingToolError: it is not installed; LiteRT does not stand in for its predecessor here, nor the other way.
    """
    module, package = _PACKAGES.get(runtime, ("", ""))
    if not module:
        return ""
    try:
        import_module(module)
        version = metadata.version(package)
    except (ImportError, metadata.PackageNotFoundError):
        raise MissingToolError(f"{package} is not installed here; pip install 'pocketstep-device[{runtime}]'") from None
    if runtime == "tflite" and _importable("ai_edge_litert"):
        raise MissingToolError("ai-edge-litert is installed beside tflite-runtime and would run in its place; "
                               "use an environment of its own")  # fmt: skip
    return f"{package} {version}"


def _importable(module: str) -> bool:
    try:
        import_module(module)
    except ImportError:
        return False
    return True


def device() -> dict[str, Any]:
    """What this machine is, as far as it says."""
    return {
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "cpu": _cpu(),
        "model": _text("/proc/device-tree/model").strip("\0 \n"),
        "memory_mb": _memory_mb(),
        "python": ".".join(str(part) for part in sys.version_info[:3]),
    }


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _cpu() -> str:
    """A processor's name, as x86 tells it and as ARM numbers it."""
    fields: dict[str, str] = {}
    for line in _text("/proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        fields[name.strip()] = value.strip()
    part = fields.get("CPU part", "")
    return fields.get("model name") or _PARTS.get(part, part)


def _memory_mb() -> float:
    for line in _text("/proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) / 1024
    return 0.0
