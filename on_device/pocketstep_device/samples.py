"""Samples that an update learns from: int8 latents with labels and targets, as parallel arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from pocketstep_device.errors import InputError
from pocketstep_device.tensors import Array

CLOUD, DEVICE, TEACHER = 0, 1, 2
"""Values of ``Samples.origin``; samples of a target pack are a ``TEACHER``'s, and never stored."""

NO_LOGIT = -30.0
"""A teacher's logit for slots that it does not know: no probability at any sensible temperature."""

HELD_BACK_EVERY = 5
"""Every fifth observed image judges updates instead of training them."""

FLAGS = ("pending", "held_back")
"""What an update changes about a sample: kept in snapshots, not beside the latents."""


@dataclass(frozen=True)
class Samples:
    """N samples as parallel arrays.

    Attributes:
        latents: int8, (N, h, w, c).
        labels: int64, (N,), class slots.
        soft_targets: float32, (N, slots); zero where ``has_soft`` is false.
        has_soft: bool, (N,).
        held_back: bool, (N,): kept for the check and never trained on.
        origin: uint8, (N,): ``CLOUD``, ``DEVICE``, or ``TEACHER``, whose labels are guesses.
        pending: bool, (N,): not yet part of an accepted update.

    Raises:
        InputError: if types or lengths differ from these.
    """

    latents: npt.NDArray[np.int8]
    labels: npt.NDArray[np.int64]
    soft_targets: npt.NDArray[np.float32]
    has_soft: npt.NDArray[np.bool_]
    held_back: npt.NDArray[np.bool_]
    origin: npt.NDArray[np.uint8]
    pending: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        for field in fields(self):
            array: Array = getattr(self, field.name)
            dtype, rank = _LAYOUT[field.name]
            if array.dtype != dtype or array.ndim != rank or array.shape[:1] != self.labels.shape[:1]:
                raise InputError(
                    f"Samples' {field.name} must be {np.dtype(dtype)} of rank {rank}, as long as the labels, "
                    f"not {array.dtype} of shape {array.shape}."
                )

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def empty(cls, latent_shape: Sequence[int], slots: int) -> Samples:
        """No samples, of a given latent shape (h, w, c) and number of class slots."""
        shapes = {"latents": (0, *latent_shape), "soft_targets": (0, slots)}
        return cls(**{name: np.zeros(shapes.get(name, (0,)), dtype) for name, (dtype, _) in _LAYOUT.items()})

    @classmethod
    def observed(cls, codes: npt.NDArray[np.int8], label: int, slots: int, seen: int) -> Samples:
        """What a device observed of one class: pending, without targets, every fifth held back.

        Args:
            codes: latents (N, h, w, c).
            label: the class' slot.
            slots: how many there are.
            seen: pending samples that the class has already.
        """
        count = len(codes)
        return cls(
            codes,
            np.full(count, label, np.int64),
            np.zeros((count, slots), np.float32),
            np.zeros(count, np.bool_),
            (np.arange(seen, seen + count) % HELD_BACK_EVERY) == HELD_BACK_EVERY - 1,
            np.full(count, DEVICE, np.uint8),
            np.ones(count, np.bool_),
        )

    @classmethod
    def concat(cls, parts: Sequence[Samples]) -> Samples:
        """All parts (at least one, all of one latent shape and number of slots) one after the other."""
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in _LAYOUT})

    def select(self, index: npt.NDArray[Any]) -> Samples:
        """The samples at an index array (integers) or mask (bool), copied."""
        return Samples(**{name: getattr(self, name)[index] for name in _LAYOUT})

    def unseen(self, latents: npt.NDArray[np.int8], label: int) -> npt.NDArray[np.int64]:
        """Which latents (N, h, w, c) the class does not hold yet: indices, of equal ones the first.

        A duplicate teaches nothing, and one that is trained on while its twin is held back deceives the check.
        """
        known = {latent.tobytes() for latent in self.latents[self.labels == label]}
        chosen = []
        for index, latent in enumerate(latents):
            if (content := latent.tobytes()) not in known:
                known.add(content)
                chosen.append(index)
        return np.array(chosen, np.int64)

    def flags(self) -> dict[str, Array]:
        """What a snapshot keeps of the samples, as its tensors."""
        return {f"samples.{name}": getattr(self, name) for name in FLAGS}

    def check(self, latent_shape: Sequence[int], slots: int) -> None:
        """Checks shapes and values against a bundle's.

        Raises:
            InputError: naming what does not fit.
        """
        if self.latents.shape[1:] != tuple(latent_shape) or self.soft_targets.shape[1] != slots:
            raise InputError(
                f"Samples with latents {self.latents.shape[1:]} and {self.soft_targets.shape[1]} slots don't "
                f"fit the bundle's {tuple(latent_shape)} and {slots}. Encode the images with this bundle."
            )
        if len(self) and not 0 <= self.labels.min() <= self.labels.max() < slots:
            raise InputError(f"A sample's label is outside 0 to {slots - 1}. Add its class first.")
        if not np.isin(self.origin, (CLOUD, DEVICE)).all():
            raise InputError(f"A sample's origin is neither {CLOUD} (cloud) nor {DEVICE} (device). Set it to one.")
        if not np.isfinite(self.soft_targets).all() or self.soft_targets[~self.has_soft].any():
            raise InputError(
                "A sample's soft targets hold NaN or infinity, or are not zero though has_soft is false. "
                "Leave them out for that sample."
            )


_LAYOUT: dict[str, tuple[type[np.generic], int]] = {
    "latents": (np.int8, 4),
    "labels": (np.int64, 1),
    "soft_targets": (np.float32, 2),
    "has_soft": (np.bool_, 1),
    "held_back": (np.bool_, 1),
    "origin": (np.uint8, 1),
    "pending": (np.bool_, 1),
}


def one_hot(labels: npt.NDArray[np.int64], slots: int) -> npt.NDArray[np.float32]:
    """(N, slots), 1 at each label: no matrix of slots by slots, whatever a manifest claims."""
    rows = np.zeros((len(labels), slots), np.float32)
    rows[np.arange(len(labels)), labels] = 1.0
    return rows
