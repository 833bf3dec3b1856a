"""Whether a snapshot is one that a learner can go on from: its digest only says that somebody meant it so."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from pocketstep_device.errors import InputError
from pocketstep_device.manifest import Manifest
from pocketstep_device.manifest_checks import is_name
from pocketstep_device.samples import FLAGS
from pocketstep_device.state import Snapshot
from pocketstep_device.tensors import MAX_HEADER, Array

_MOST_SAMPLES = 2**25


def most_bytes(manifest: Manifest) -> int:
    """The largest snapshot that can be a bundle's: header, tensors, fingerprint, and the flags of very many samples."""
    state = sum(math.prod(spec.shape) for spec in manifest.state) * 4
    return MAX_HEADER + state + 2**16 + len(FLAGS) * _MOST_SAMPLES


def checked_values(snapshot: Snapshot, manifest: Manifest, what: str, error: type[InputError]) -> dict[str, Array]:
    """The state's tensors by name, in the manifest's order.

    Args:
        snapshot: a saved one, or that of a bundle.
        manifest: of the bundle that will use it.
        what: what the snapshot is, for messages.
        error: the class of error to raise.

    Raises:
        InputError: (or ``error``) if a tensor is missing or of another shape or type, no class is learned, or the facts
            beside the tensors are not what a learner writes.
    """
    values: dict[str, Array] = {}
    for spec in manifest.state:
        tensor = snapshot.tensors.get(spec.name)
        if tensor is None or tensor.shape != tuple(spec.shape) or tensor.dtype != np.float32:
            raise error(
                f"{what} lacks '{spec.name}' of shape {tuple(spec.shape)}, or has it in another shape or type. "
                "Restore it from a copy, or begin anew."
            )
        values[spec.name] = tensor
    slots, info = manifest.task.slots, snapshot.info
    if not are_facts(info, slots):
        raise error(f"{what} does not name its classes, samples and updates rightly. Restore it from a copy.")
    mask = values.get("class_mask")
    if (
        mask is None
        or mask.shape != (slots,)
        or not np.isin(mask, (0, 1)).all()
        or not mask[: len(info["classes"])].any()
    ):
        raise error(f"{what} does not know which of its classes are learned. Restore it from a copy.")
    return values


def are_facts(info: Mapping[str, Any], slots: int) -> bool:
    """Whether what lies beside a snapshot's tensors is what a learner of so many class slots writes there."""
    classes, keep = info.get("classes"), info.get("keep", [])
    if not isinstance(classes, list) or not all(isinstance(name, str) and is_name(name) for name in classes):
        return False
    numbers = [info.get("updates"), info.get("before_update", 0), *(keep if isinstance(keep, list) else [None])]
    return (
        0 < len(classes) == len(set(classes)) <= slots
        and isinstance(info.get("chunks"), list)
        and all(type(number) is int and 0 <= number < 2**63 for number in numbers)
    )
