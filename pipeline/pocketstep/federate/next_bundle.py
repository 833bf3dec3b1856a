"""What a fleet learned as the next bundle, which its devices adopt."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pocketstep.federate.aggregate import Array
from pocketstep_device.bundle import Bundle
from pocketstep_device.bundle_writer import write_bundle
from pocketstep_device.errors import InputError
from pocketstep_device.exchange import class_of, parts_of, placed
from pocketstep_device.tensors import write_tensors

STATE_FILE = "state.safetensors"


def initial_parts(bundle: Bundle) -> dict[str, Array]:
    """The parts that a bundle leaves the cloud with: what the first round begins with."""
    tensors, _ = bundle.tensors(STATE_FILE)
    return parts_of(bundle.manifest, tensors, list(bundle.manifest.task.classes))


def state_of(bundle: Bundle, parts: Mapping[str, Array]) -> tuple[dict[str, Array], list[str]]:
    """A bundle's state with a fleet's parts in it, and its classes, new ones behind the known.

    It answers with the trained head: the closed form knows nothing of what the fleet saw.

    Raises:
        InputError: parts that do not fit, or more classes than slots.
    """
    known = list(bundle.manifest.task.classes)
    classes = known + sorted({class_of(name) for name in parts} - {"", *known})
    if len(classes) > bundle.manifest.task.slots:
        raise InputError(
            f"the fleet knows {len(classes)} classes and the bundle has {bundle.manifest.task.slots} slots: build it "
            "with more spare classes"
        )
    tensors, _ = bundle.tensors(STATE_FILE)
    values, _ = placed(bundle.manifest, tensors, classes, parts)
    mask = tensors["class_mask"].copy()
    mask[: len(classes)] = 1
    return {**tensors, **values, "class_mask": mask, "blend": np.zeros(1, np.float32)}, classes


def next_bundle(bundle: Bundle, parts: Mapping[str, Array], target: Path) -> Bundle:
    """Writes the same programs with a fleet's parts as their state, one release higher, unsigned.

    Args:
        bundle: that the fleet has.
        parts: what came of it.
        target: folder of the new bundle; an older bundle there is replaced.

    Raises:
        InputError: parts that do not fit, or more classes than slots.
        BundleError: see ``write_bundle``.
    """
    state, classes = state_of(bundle, parts)
    described = json.loads(bundle.manifest.to_json())
    del described["files"]
    described["task"]["classes"] = classes
    described["release"] = bundle.manifest.release + 1
    files = {name: bundle.read(name) for name in bundle.manifest.files if name != STATE_FILE}
    ordered = {spec.name: np.ascontiguousarray(state[spec.name]) for spec in bundle.manifest.state}
    return write_bundle(target, described, {**files, STATE_FILE: write_tensors(ordered)})
