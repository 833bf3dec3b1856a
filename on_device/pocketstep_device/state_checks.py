"""Whether a snapshot is one that a learner can go on from: its digest only says that somebody meant it so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pocketstep_device.errors import InputError
from pocketstep_device.manifest import Manifest
from pocketstep_device.state import Snapshot
from pocketstep_device.tensors import Array


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
    if not _are_facts(info, slots):
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


def _are_facts(info: Mapping[str, Any], slots: int) -> bool:
    classes = info.get("classes")
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        return False
    numbers = [info.get("updates"), info.get("before_update", 0)]
    return (
        0 < len(classes) == len(set(classes)) <= slots
        and isinstance(info.get("chunks"), list)
        and all(type(number) is int and number >= 0 for number in numbers)
    )
