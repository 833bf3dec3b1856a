"""Target packs: what the cloud's teacher says of images that nobody labelled (Zhao et al. 2022, section 4.2).

A pack is one safetensors file, made for one bundle by ``pocketstep targets``: the images' latents, the teacher's
logits, and, where the bundle's step takes them, its features. A device learns from it in one update and keeps none of
its samples.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pocketstep_device.bundle import Bundle
from pocketstep_device.errors import InputError
from pocketstep_device.manifest import Manifest
from pocketstep_device.manifest_checks import is_name
from pocketstep_device.samples import HELD_BACK_EVERY, NO_LOGIT, TEACHER, Samples
from pocketstep_device.storage import read_regular, write_atomically
from pocketstep_device.tensors import Array, read_tensors, write_tensors

METHOD = "targets"
"""The schedule that learns from a pack."""
MOST_BYTES = 2**28
_FORMAT = "pocketstep target pack 1"
_FEATURES = "feature_targets"


@dataclass(frozen=True)
class Lesson:
    """A pack as one device learns it.

    Attributes:
        samples: of origin ``TEACHER``, labelled with the teacher's first choice, which only balances batches, judges,
            and counts for the closed form; every fifth is held back.
        features: float32 (N, L), targets for the step's features; None where there are none.
        taught: (slots,) 1 for the classes that the teacher sees in an image that is not held back.
    """

    samples: Samples
    features: Array | None
    taught: Array


@dataclass(frozen=True)
class TargetPack:
    """N images without labels, and what a teacher of C classes says of them.

    Attributes:
        classes: the teacher's, in the order of its outputs.
        latents: int8, (N, h, w, c), by the bundle's ``encode``.
        logits: float32, (N, C).
        features: float32, (N, L), the teacher's input of its last layer; None without.

    Raises:
        InputError: parts that do not go together.
    """

    classes: tuple[str, ...]
    latents: npt.NDArray[np.int8]
    logits: npt.NDArray[np.float32]
    features: npt.NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        count = len(self.latents)
        if self.latents.dtype != np.int8 or self.latents.ndim != 4 or not count:
            raise InputError(f"a pack's latents are {self.latents.dtype} {self.latents.shape}; give int8 (N, h, w, c)")
        if self.logits.dtype != np.float32 or self.logits.shape != (count, len(self.classes)):
            raise InputError(
                f"a pack's logits are {self.logits.dtype} {self.logits.shape}; give float32, a row for each of the "
                f"{count} latents and a column for each of the {len(self.classes)} classes"
            )
        features = self.features
        if features is not None and (features.dtype != np.float32 or features.ndim != 2 or len(features) != count):
            raise InputError(f"a pack's features are {features.dtype} {features.shape}; give float32 ({count}, L)")
        if len(set(self.classes)) < len(self.classes) or not all(is_name(name) for name in self.classes):
            raise InputError("a pack's classes must be names, each once")

    def write(self, path: Path, bundle: Bundle) -> None:
        """Writes the pack for a bundle, atomically."""
        tensors: dict[str, Array] = {"latents": self.latents, "logits": self.logits}
        if self.features is not None:
            tensors[_FEATURES] = self.features
        metadata = {"format": _FORMAT, "bundle": bundle.digest, "classes": "\n".join(self.classes)}
        write_atomically(path, write_tensors(tensors, metadata))

    @classmethod
    def read(cls, path: str | os.PathLike[str], bundle: Bundle) -> TargetPack:
        """Reads a pack that was made for this bundle.

        Raises:
            InputError: missing, damaged or too large a file, no pack, or one of another bundle.
        """
        where = f"The target pack {os.fspath(path)}"
        tensors, metadata = read_tensors(read_regular(Path(path), MOST_BYTES, where, InputError), where)
        if metadata.get("format") != _FORMAT:
            raise InputError(f"{where} is none that this version reads; make it with 'pocketstep targets'.")
        if metadata.get("bundle") != bundle.digest:
            raise InputError(
                f"{where} was made for another bundle, whose latents mean something else; "
                f"make one with 'pocketstep targets {bundle.path}'."
            )
        if not {"latents", "logits"} <= set(tensors) <= {"latents", "logits", _FEATURES}:
            raise InputError(f"{where} lacks latents or logits, or holds something else. Fetch or make it again.")
        names = tuple(metadata.get("classes", "").split("\n"))
        pack = cls(names, tensors["latents"], tensors["logits"], tensors.get(_FEATURES))
        if pack.latents.shape[1:] != tuple(bundle.manifest.latent.shape):
            raise InputError(f"{where} has latents {pack.latents.shape[1:]}, not this bundle's. Make it again.")
        return pack

    def with_classes(self, known: Sequence[str], slots: int) -> list[str]:
        """The device's classes and, behind them, those that only the teacher knows and sees in an image.

        Raises:
            InputError: there are not enough free slots.
        """
        seen = [self.classes[column] for column in np.unique(self._first_choices[~self._held_back])]
        classes = [*known, *(name for name in seen if name not in known)]
        if len(classes) > slots:
            raise InputError(
                f"the target pack brings {len(classes) - len(known)} new classes, and {slots - len(known)} slots are "
                "free; build the bundle again with more spare classes, or make a pack of fewer classes"
            )
        return classes

    def lesson(self, classes: Sequence[str], manifest: Manifest) -> Lesson:
        """What a device with these classes, in the order of slots, learns from; other classes are left out.

        Raises:
            InputError: features of another length than the step's.
        """
        slots, count = manifest.task.slots, len(self.latents)
        columns = [column for column, name in enumerate(self.classes) if name in classes]
        own = np.array([classes.index(self.classes[column]) for column in columns], np.int64)
        soft = np.full((count, slots), NO_LOGIT, np.float32)
        soft[:, own] = self.logits[:, columns]
        taught = np.zeros(slots, np.float32)
        labels = own[self.logits[:, columns].argmax(1)]
        taught[np.unique(labels[~self._held_back])] = 1
        samples = Samples(
            self.latents, labels, soft, np.ones(count, np.bool_), self._held_back, np.full(count, TEACHER, np.uint8),
            np.ones(count, np.bool_),
        )  # fmt: skip
        return Lesson(samples, self._features_for(manifest), taught)

    @property
    def _first_choices(self) -> npt.NDArray[np.int64]:
        """(N,) columns."""
        choices: npt.NDArray[np.int64] = self.logits.argmax(1)
        return choices

    @property
    def _held_back(self) -> npt.NDArray[np.bool_]:
        """(N,): every fifth."""
        held_back: npt.NDArray[np.bool_] = np.arange(len(self.latents)) % HELD_BACK_EVERY == HELD_BACK_EVERY - 1
        return held_back

    def _features_for(self, manifest: Manifest) -> Array | None:
        length = feature_length(manifest)
        if self.features is None or length is None:
            return None
        if self.features.shape[1] != length:
            raise InputError(
                f"the target pack's features have {self.features.shape[1]} numbers, the bundle's step takes {length}; "
                "make the pack again for this bundle"
            )
        return self.features


def feature_length(manifest: Manifest) -> int | None:
    """Length of the step's feature targets; None where it takes none."""
    return next((s.shape[1] for s in manifest.signatures["step"].inputs if s.name == _FEATURES), None)
