"""Everything that is known of a bundle without running it, as one dictionary of JSON values."""

from __future__ import annotations

import math
from typing import Any

from pocketstep.inspection.modules import ROLES, modules_of
from pocketstep_device.bundle import Bundle
from pocketstep_device.forecast import forecast
from pocketstep_device.manifest import Manifest
from pocketstep_device.shipped import REPLAY_FILE, cloud_samples

OBSERVED = 100
"""Images that the device is thought to have observed, for the forecast of its memory."""
_FLOAT = 4
_USE = ("encode", "classify", "statistics", "solve", "score", "step")


def facts_of(bundle: Bundle) -> dict[str, Any]:
    """Reads a bundle that was opened, so every byte of it is checked.

    Returns:
        ``bundle``, ``task``, ``plan`` (with ``modules`` and ``roles``), ``signatures``, ``cost``, ``runtimes``,
        ``files``, ``device``, ``memory``, ``hyper``, ``schedules``. Sizes in bytes, arithmetic in
        multiply-accumulates for one image; ``cost`` has what the manifest has, and ``forward_passes`` (a step by exact
        arithmetic) where that can be said.

    Raises:
        BundleError: the replay set does not fit the manifest.
    """
    manifest = bundle.manifest
    return {
        "bundle": {
            "name": manifest.name,
            "path": str(bundle.path),
            "producer": manifest.producer,
            "format": manifest.version,
            "digest": bundle.digest,
            "bytes": sum(entry.bytes for entry in manifest.files.values()),
        },
        "task": _task(manifest),
        "plan": _plan(manifest),
        "signatures": [
            {"name": name, "batch": s.batch, "inputs": len(s.inputs), "outputs": len(s.outputs)}
            for name, s in sorted(manifest.signatures.items(), key=lambda entry: in_use(entry[0]))
        ],
        "cost": _cost(manifest),
        "runtimes": [_runtime(manifest, name) for name in manifest.runtimes],
        "files": [{"name": name, "bytes": entry.bytes} for name, entry in manifest.files.items()],
        "device": (device := _device(bundle)),
        "memory": _memory(manifest, device["replay"]["samples"] if device["replay"] else 0),
        "hyper": [
            {"name": name, "default": h.default, "min": h.min, "max": h.max, "meaning": h.meaning}
            for name, h in manifest.hyper.items()
        ],
        "schedules": [
            {
                "name": name,
                "meaning": schedule.meaning,
                "max_old_loss": schedule.accept.max_old_loss,
                "phases": [dict(phase) for phase in schedule.phases],
            }
            for name, schedule in manifest.schedules.items()
        ],
    }


def in_use(signature: str) -> tuple[int, str]:
    """Sorts signatures by when a device uses them."""
    return _USE.index(signature) if signature in _USE else len(_USE), signature


def _task(manifest: Manifest) -> dict[str, Any]:
    task = manifest.task
    return {
        "classes": list(task.classes),
        "slots": task.slots,
        "free": task.slots - len(task.classes),
        "input": list(task.input.shape),
        "colour": task.input.colour,
    }


def _plan(manifest: Manifest) -> dict[str, Any]:
    plan = manifest.plan
    return {
        "preset": plan.preset,
        "cut": plan.cut,
        "latent": list(manifest.latent.shape),
        "roles": {
            role: {
                "parameters": sum(p.role == role for p in plan.parameters),
                "numbers": sum(math.prod(p.shape) for p in plan.parameters if p.role == role),
            }
            for role in ROLES
        },
        "modules": modules_of(plan),
    }


def _cost(manifest: Manifest) -> dict[str, float]:
    cost = dict(manifest.cost)
    step, forward = cost.get("macs.step"), cost.get("macs.forward")
    if step is not None and forward:
        cost["forward_passes"] = step / forward
    return cost


def _runtime(manifest: Manifest, name: str) -> dict[str, Any]:
    """One runtime; ``delegated`` by signature as far as its exporter said, the number of delegates and operators."""
    runtime = manifest.runtimes[name]
    delegated: dict[str, dict[str, int]] = {}
    for key, value in runtime.delegated.items():
        signature, _, what = key.rpartition(".")
        if signature in manifest.signatures and what in ("delegates", "outside"):
            delegated.setdefault(signature, {})[what] = int(value)
    inside = (path == runtime.file or path.startswith(runtime.file + "/") for path in manifest.files)
    return {
        "name": name,
        "file": runtime.file,
        "bytes": sum(e.bytes for e, own in zip(manifest.files.values(), inside, strict=True) if own),
        "versions": dict(runtime.versions),
        "delegated": dict(sorted(delegated.items(), key=lambda entry: in_use(entry[0]))),
    }


def _memory(manifest: Manifest, replayed: int) -> list[dict[str, Any]]:
    """Peak memory of a device that observes and updates, by runtime: what it says itself before it begins."""
    if not {"classify", "step"} <= set(manifest.signatures):
        return []
    training = max((schedule.training for schedule in manifest.schedules.values()), default=0)
    found = {runtime: forecast(manifest, runtime, replayed, OBSERVED, training) for runtime in manifest.runtimes}
    return [
        {"runtime": name, "bytes": f.memory, "program": f.program, "data": f.data, "observed": OBSERVED}
        for name, f in found.items()
        if f.measured
    ]


def _device(bundle: Bundle) -> dict[str, Any]:
    """What a device keeps: state by kind, bytes of a latent, and the replay samples that come along."""
    manifest = bundle.manifest
    state: dict[str, dict[str, int]] = {}
    for tensor in manifest.state:
        kind = state.setdefault(tensor.kind, {"tensors": 0, "numbers": 0, "bytes": 0})
        kind["tensors"] += 1
        kind["numbers"] += math.prod(tensor.shape)
        kind["bytes"] += math.prod(tensor.shape) * _FLOAT
    replay = None
    if REPLAY_FILE in manifest.files:
        samples = cloud_samples(bundle)
        replay = {
            "samples": len(samples),
            "held_back": int(samples.held_back.sum()),
            "bytes": manifest.files[REPLAY_FILE].bytes,
        }
    return {
        "state": state,
        "state_bytes": sum(kind["bytes"] for kind in state.values()),
        "latent_bytes": math.prod(manifest.latent.shape),
        "replay": replay,
    }
