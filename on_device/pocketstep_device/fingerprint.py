"""What a bundle's fixed part computes, in a few numbers: by these a later bundle knows whether a state fits it.

Made-up images go through ``encode``, and what comes of them through ``classify`` with a made-up state. Two programs
that agree on both have the same frozen layers: latents stored with one mean the same to the other, and trained tensors
too.
The numbers are measured on the device, so they hold across runtimes, formats and versions of the compiler, and they lie
in every snapshot, so that the old bundle need not be there any more.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import numpy as np

from pocketstep_device.machine import Machine
from pocketstep_device.shuffle import uniform
from pocketstep_device.tensors import Array

PREFIX = "fingerprint."
_IMAGES = 2
_NUMBERS = 4096
_SAME_CODES = 0.99
_TOLERANCE = 1e-3
_SPREAD = 0.17320508
"""Of made-up weights, from the least to the largest: a standard deviation of 0.05."""


def fingerprint(machine: Machine) -> dict[str, Array]:
    """``fingerprint.latents``, int8, and ``fingerprint.logits``, float32, at most 4096 numbers each."""
    manifest = machine.manifest
    low, high = manifest.task.input.range
    shape = (_IMAGES, *manifest.task.input.shape)
    images = uniform(0, math.prod(shape)).reshape(shape) * np.float32(high - low) + np.float32(low)
    latents = machine.in_batches("encode", {}, {"images": images}, "latents")
    codes = np.clip(np.rint(latents), -128, 127).astype(np.int8)
    state = {
        spec.name: _made_up(spec.name, tuple(spec.shape))
        for spec in manifest.signatures["classify"].inputs
        if spec.source == "state"
    }
    logits = machine.in_batches("classify", state, {"latents": codes}, "logits")
    return {f"{PREFIX}latents": _thinned(codes), f"{PREFIX}logits": _thinned(logits)}


def same_latents(one: Mapping[str, Array], other: Mapping[str, Array]) -> bool:
    """Whether latents mean the same to both; int8 codes may differ by rounding."""
    a, b = (found.get(f"{PREFIX}latents") for found in (one, other))
    if a is None or b is None or a.shape != b.shape:
        return False
    difference = np.abs(a.astype(np.int16) - b.astype(np.int16))
    return bool(difference.max(initial=0) <= 1 and (difference == 0).mean() >= _SAME_CODES)


def same_answers(one: Mapping[str, Array], other: Mapping[str, Array]) -> bool:
    """Whether one trained state means the same to both."""
    a, b = (found.get(f"{PREFIX}logits") for found in (one, other))
    if a is None or b is None or a.shape != b.shape or not np.isfinite([a, b]).all():
        return False
    return bool(np.abs(a - b).max(initial=0) <= _TOLERANCE * max(float(np.abs(a).max(initial=0)), 1e-6))


def _made_up(name: str, shape: tuple[int, ...]) -> Array:
    """All classes, the trained head, and small random weights, the same for the same name and shape."""
    if name == "class_mask":
        return np.ones(shape, np.float32)
    if name == "blend":
        return np.full(shape, 0.5, np.float32)
    numbers = uniform(zlib.crc32(name.encode()), math.prod(shape)).reshape(shape)
    return (numbers - np.float32(0.5)) * np.float32(_SPREAD)


def _thinned(values: Array) -> Array:
    return np.ascontiguousarray(values.reshape(-1)[:: -(-values.size // _NUMBERS)])
