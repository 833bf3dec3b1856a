"""A small bundle that needs no runtime, and samples for it: what the tests of the device package share."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from pocketstep_device.bundle import Bundle
from pocketstep_device.bundle_writer import write_bundle
from pocketstep_device.replay import ReplayStore
from pocketstep_device.samples import DEVICE, Samples
from pocketstep_device.tensors import write_tensors

LATENT = (2, 2, 3)
SLOTS = 4
STATE = {"head.weight": (12, SLOTS), "head.bias": (SLOTS,), "mask": (SLOTS,)}


def _tensor(name: str, shape: tuple[int, ...], source: str) -> dict[str, Any]:
    return {
        "name": name,
        "shape": list(shape),
        "dtype": "float32",
        "source": source,
        "meaning": f"the {name}",
    }


_STATE_INPUTS = [_tensor(name, shape, "state") for name, shape in STATE.items()]
_MANIFEST: dict[str, Any] = {
    "format": "pocketstep-bundle",
    "version": 1,
    "name": "mugs",
    "producer": "pocketstep 0.1.0",
    "release": 0,
    "task": {
        "classes": ["red mug", "green mug"],
        "slots": SLOTS,
        "input": {
            "shape": [8, 8, 3],
            "range": [0, 255],
            "colour": "rgb",
            "mean": [0.5] * 3,
            "std": [0.25] * 3,
        },
    },
    "latent": {"shape": list(LATENT), "dtype": "int8"},
    "plan": {
        "preset": "centre",
        "cut": "layer1",
        "parameters": [
            {"name": "conv", "role": "frozen", "shape": [3, 3, 3, 3], "trained": False, "group": None},
            {"name": "head.weight", "role": "head", "shape": [12, SLOTS], "trained": True, "group": "head"},
        ],
    },
    "signatures": {
        "encode": {
            "batch": 1,
            "inputs": [_tensor("image", (1, 8, 8, 3), "batch")],
            "outputs": [_tensor("latent", (1, *LATENT), "result")],
        },
        "step": {
            "batch": 4,
            "inputs": [
                _tensor("latents", (4, *LATENT), "batch"),
                *_STATE_INPUTS,
                _tensor("rate", (), "hyper"),
            ],
            "outputs": [_tensor("loss", (), "result")],
        },
    },
    "state": [
        {"name": "head.weight", "shape": [12, SLOTS], "dtype": "float32", "kind": "head"},
        {"name": "head.bias", "shape": [SLOTS], "dtype": "float32", "kind": "head"},
        {"name": "mask", "shape": [SLOTS], "dtype": "float32", "kind": "control"},
    ],
    "hyper": {"rate": {"default": 0.01, "min": 0, "max": 1, "meaning": "learning rate"}},
    "schedules": {
        "auto": {
            "meaning": "closed form, then replay",
            "phases": [
                {"kind": "solve"},
                {"kind": "step", "epochs": 2, "rows": ["new", "old"], "masked": True},
            ],
            "accept": {"max_old_loss": 0.02, "max_class_loss": 0.5},
        }
    },
    "cost": {"step.forward_passes": 1.4},
    "runtimes": {"litert": {"file": "program.tflite", "versions": {"litert": "2.3.0"}, "delegated": {"step": 1}}},
}


def fake_manifest() -> dict[str, Any]:
    """A valid manifest without ``files``, free to be changed."""
    return copy.deepcopy(_MANIFEST)


def fake_files() -> dict[str, bytes]:
    """The content of a fake bundle; the program is no program."""
    random = np.random.default_rng(0)
    state = {name: random.normal(size=shape).astype(np.float32) for name, shape in STATE.items()}
    return {
        "program.tflite": random.bytes(3000),
        "state.safetensors": write_tensors(state, {"kind": "state"}),
        "extra/labels.txt": b"red mug\ngreen mug\n",
    }


def fake_manifest_bytes(manifest: dict[str, Any] | None = None) -> bytes:
    """A manifest as JSON, with a made-up entry for each file where it has none."""
    files = {name: {"sha256": "0" * 64, "bytes": len(content)} for name, content in fake_files().items()}
    return json.dumps({"files": files, **(manifest or fake_manifest())}).encode()


def fake_bundle(folder: Path) -> Bundle:
    """Writes a valid folder bundle."""
    return write_bundle(folder, fake_manifest(), fake_files())


def fake_samples(count: int, seed: int = 0, classes: int = 3) -> Samples:
    """Random samples of the fake bundle's shapes; every third has soft targets, every fourth is held back."""
    random = np.random.default_rng(seed)
    has_soft = np.arange(count) % 3 == 0
    soft = random.random((count, SLOTS), np.float32) * has_soft[:, None]
    return Samples(
        latents=random.integers(-128, 128, (count, *LATENT), np.int8),
        labels=random.integers(0, classes, count, np.int64),
        soft_targets=soft.astype(np.float32),
        has_soft=has_soft,
        held_back=np.arange(count) % 4 == 0,
        origin=np.full(count, DEVICE, np.uint8),
        pending=np.arange(count) % 5 == 0,
    )


def make_store(folder: Path, max_bytes: int = 10**6) -> ReplayStore:
    return ReplayStore(folder, LATENT, SLOTS, max_bytes)


def assert_same(left: Samples, right: Samples) -> None:
    for field in dataclasses.fields(Samples):
        np.testing.assert_array_equal(getattr(left, field.name), getattr(right, field.name))
        assert getattr(left, field.name).dtype == getattr(right, field.name).dtype
