"""What devices of a fleet tell one another: trained tensors by class name, and never an image, a latent or a label.

A *part* is a trained tensor, or of a tensor with critical paths one class's path, named ``TENSOR@CLASS``. Where a
bundle has no paths, the head's rows are told apart by class all the same. So a class means the same to devices that
have it in other slots, and classes that several devices found by themselves meet by their names.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import numpy as np

from pocketstep_device.errors import InputError
from pocketstep_device.knowledge import Knowledge
from pocketstep_device.manifest import Manifest, PathAxis
from pocketstep_device.samples import DEVICE
from pocketstep_device.tensors import Array

OF_CLASS = "@"
_HEADS = (PathAxis("head.weight", 0, 1), PathAxis("head.bias", 0, 1))


def parts_of(manifest: Manifest, values: Mapping[str, Array], classes: list[str]) -> dict[str, Array]:
    """All parts of a state, float32 copies.

    Args:
        manifest: of the bundle.
        values: its state.
        classes: names in the order of slots.
    """
    places = _places(manifest, classes)
    return {name: np.ascontiguousarray(values[tensor][where]) for name, (tensor, where) in places.items()}


def export_parts(learner: Knowledge, classes: Collection[str] | None = None) -> dict[str, Array]:
    """What this device has to tell: tensors that all classes share, and the paths of ``classes`` (None: of all).

    Args:
        learner: an open one.
        classes: names; those that the device does not have are left out.
    """
    parts = parts_of(learner.manifest, learner.values, learner.classes)
    return {n: p for n, p in parts.items() if classes is None or OF_CLASS not in n or class_of(n) in classes}


def import_parts(learner: Knowledge, parts: Mapping[str, Array]) -> list[str]:
    """Goes on with these parts in place of the device's own, by one write or not at all.

    Paths of classes that the device does not have are left out: it carries only its own. What the device observed
    itself is pending again, so that the next update teaches it to the new tensors.

    Args:
        learner: an open one.
        parts: from a server; anything may be in there.

    Returns:
        Names of the parts that were taken.

    Raises:
        InputError: a part of a tensor that is not trained here, of another shape or type, or not finite. Nothing was
            changed.
        StateError: the disk refuses. Nothing was changed.
    """
    values, taken = placed(learner.manifest, learner.values, learner.classes, parts)
    if taken:
        learner.take_trained(values)
    return taken


def placed(
    manifest: Manifest, values: Mapping[str, Array], classes: list[str], parts: Mapping[str, Array]
) -> tuple[dict[str, Array], list[str]]:
    """A state's trained tensors with parts in their places, and which parts had one.

    Args:
        manifest: of the bundle.
        values: its state.
        classes: names in the order of slots; parts of other classes are left out.
        parts: by name; anything may be in there.

    Raises:
        InputError: as for :func:`import_parts`.
    """
    places = _places(manifest, classes)
    result = {spec.name: values[spec.name].copy() for spec in manifest.state if spec.kind == "parameter"}
    taken = []
    for name, part in parts.items():
        if name.partition(OF_CLASS)[0] not in result:
            raise InputError(f"the part '{name[:200]}' is of no tensor that is trained here; nothing was changed")
        if name not in places:
            continue
        tensor, where = places[name]
        if problem := part_problem(part, result[tensor][where].shape):
            raise InputError(f"the part '{name[:200]}' {problem}; nothing was changed")
        result[tensor][where] = part
        taken.append(name)
    return result, taken


def counts(learner: Knowledge) -> dict[str, int]:
    """Images of each class that this device observed and trains on: what its parts weigh."""
    samples = learner.samples
    own = samples.labels[(samples.origin == DEVICE) & ~samples.held_back]
    numbers = np.bincount(own, minlength=len(learner.classes))
    return {name: int(n) for name, n in zip(learner.classes, numbers, strict=False) if n}


def part_problem(part: object, shape: tuple[int, ...]) -> str:
    """What is wrong with a part that should have this shape; empty when nothing is."""
    if not isinstance(part, np.ndarray) or part.dtype != np.float32 or part.shape != shape:
        found = f"{part.dtype} {part.shape}" if isinstance(part, np.ndarray) else type(part).__name__
        return f"is {found}, not float32 {shape}"
    return "" if np.isfinite(part).all() else "holds numbers that are not finite"


def class_of(part: str) -> str:
    """The class that a part belongs to; empty for a tensor that all share."""
    return part.partition(OF_CLASS)[2]


Where = tuple[slice, ...]


def _places(manifest: Manifest, classes: list[str]) -> dict[str, tuple[str, Where]]:
    """Part -> its tensor and where it lies there."""
    return dict(_each_place(manifest, classes))


def _each_place(manifest: Manifest, classes: list[str]) -> Iterator[tuple[str, tuple[str, Where]]]:
    axes = manifest.plan.paths or _HEADS
    for spec in manifest.state:
        if spec.kind != "parameter":
            continue
        own = {axis.axis: axis.size for axis in axes if axis.name == spec.name}
        if not own:
            yield spec.name, (spec.name, (slice(None),) * len(spec.shape))
            continue
        for slot, name in enumerate(classes):
            where = tuple(
                slice(slot * own[i], (slot + 1) * own[i]) if i in own else slice(None) for i in range(len(spec.shape))
            )
            yield f"{spec.name}{OF_CLASS}{name}", (spec.name, where)
