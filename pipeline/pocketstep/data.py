"""Labelled images: one checked container, and readers for the datasets that recipes name."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from pocketstep_device.errors import InputError

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Split = Literal["train", "test"]

_CIFAR_SIDE = 32


@dataclass(frozen=True)
class _CifarLayout:
    """Where the binary version of a CIFAR dataset keeps its records (labels, then 3 x 32 x 32 bytes)."""

    folder: str
    files: dict[Split, tuple[str, ...]]
    names: str
    classes: int
    label_bytes: int


_CIFAR = {
    "cifar10": _CifarLayout(
        "cifar-10-batches-bin",
        {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)},
        "batches.meta.txt",
        classes=10,
        label_bytes=1,
    ),
    "cifar100": _CifarLayout(
        "cifar-100-binary",
        {"train": ("train.bin",), "test": ("test.bin",)},
        "fine_label_names.txt",
        classes=100,
        label_bytes=2,
    ),
}


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images of one size, every class with at least one image.

    Attributes:
        images: uint8 (N, H, W, C), C = 1 or 3.
        labels: int64 (N,), indices into ``classes``.
        classes: Names, all different.

    Raises:
        InputError: If a shape, a dtype, a label or a name is wrong, or a class has no image.
    """

    images: Images
    labels: Labels
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_images(self.images)
        _check_labels(self.labels, len(self.images), self.classes)

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, classes: Sequence[str | int]) -> Dataset:
        """The images of some classes, relabelled 0, 1, ... in the order asked for.

        Args:
            classes: Names or indices, without repetition.

        Raises:
            InputError: If a class does not exist.
        """
        chosen = [self._index(name) for name in classes]
        places = [np.flatnonzero(self.labels == label) for label in chosen]
        labels = np.repeat(np.arange(len(chosen)), [len(rows) for rows in places])
        rows = np.concatenate([np.empty(0, np.int64), *places])
        order = np.argsort(rows)
        return Dataset(self.images[rows[order]], labels[order].astype(np.int64), tuple(self.classes[c] for c in chosen))

    def per_class(self, n: int, seed: int = 0) -> Dataset:
        """At most ``n`` random images of each class, in their old order.

        Raises:
            InputError: If ``n`` is not positive.
        """
        if n < 1:
            raise InputError(f"cannot keep {n} images per class: every class needs one; ask for 1 or more")
        return self._take([rows[:n] for rows in self._shuffled(seed)])

    def divide(self, n: int, seed: int = 0) -> tuple[Dataset, Dataset]:
        """``n`` random images of each class, and the others.

        Args:
            n: at least one, fewer than the smallest class has.
            seed: of the choice.

        Raises:
            InputError: a part would have no image of a class.
        """
        shuffled = self._shuffled(seed)
        fewest = min(len(rows) for rows in shuffled)
        if not 0 < n < fewest:
            raise InputError(
                f"cannot take {n} images of each class and leave some: the smallest has {fewest}; ask for 1 to "
                f"{fewest - 1}"
            )
        return self._take([rows[:n] for rows in shuffled]), self._take([rows[n:] for rows in shuffled])

    def split(self, share: float, seed: int = 0) -> tuple[Dataset, Dataset]:
        """Divides every class at random: (the rest, ``share`` of its images), each part at least one image.

        Args:
            share: Part of every class that goes to the second dataset, between 0 and 1.
            seed: Of the shuffle.

        Raises:
            InputError: If ``share`` is not between 0 and 1, or a class has a single image.
        """
        if not 0 < share < 1:
            raise InputError(f"cannot split off a share of {share}: give a number between 0 and 1")
        shuffled = self._shuffled(seed)
        if min(len(rows) for rows in shuffled) < 2:
            raise InputError("cannot split: a class has only one image; every class needs two or more")
        cuts = [min(max(round(share * len(rows)), 1), len(rows) - 1) for rows in shuffled]
        rest = [rows[cut:] for rows, cut in zip(shuffled, cuts, strict=True)]
        return self._take(rest), self._take([rows[:cut] for rows, cut in zip(shuffled, cuts, strict=True)])

    def _index(self, name: str | int) -> int:
        index = self.classes.index(name) if name in self.classes else name
        if not isinstance(index, int | np.integer) or not 0 <= index < len(self.classes):
            raise InputError(
                f"there is no class {name!r}: choose among {', '.join(self.classes)}, "
                f"or an index 0..{len(self.classes) - 1}"
            )
        return int(index)

    def _shuffled(self, seed: int) -> list[npt.NDArray[np.int64]]:
        rng = np.random.default_rng(seed)
        return [rng.permutation(np.flatnonzero(self.labels == c)) for c in range(len(self.classes))]

    def _take(self, rows_of_classes: Sequence[npt.NDArray[np.int64]]) -> Dataset:
        rows = np.sort(np.concatenate(rows_of_classes))
        return Dataset(self.images[rows], self.labels[rows], self.classes)


def load_digits(size: int = 16, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Scikit-learn's handwritten digits, enlarged bilinearly: no download, seconds to learn.

    Args:
        size: Side of the images in pixels; the originals have 8.
        seed: Of the split.

    Returns:
        (train, test): images (N, size, size, 1), classes "0".."9", 44 % (about 78 images) of each class
        in the test set, so that one image weighs little in a class's accuracy.

    Raises:
        InputError: If ``size`` is smaller than the originals' 8 pixels.
    """
    import torch
    from sklearn.datasets import load_digits as bundled

    if size < 8:
        raise InputError(f"cannot load the digits at {size} pixels: the originals have 8; ask for 8 or more")
    originals = bundled()
    maps = torch.from_numpy(originals.images).float().unsqueeze(1) * (255 / 16)
    enlarged = torch.nn.functional.interpolate(maps, size=(size, size), mode="bilinear", align_corners=False)
    images = enlarged.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    digits = Dataset(images, originals.target.astype(np.int64), tuple(str(c) for c in originals.target_names))
    return digits.split(0.44, seed)


def load_cifar(folder: str | Path, name: Literal["cifar10", "cifar100"], split: Split) -> Dataset:
    """CIFAR-10, or CIFAR-100 with its fine labels, from the standard binary version.

    Args:
        folder: Holds ``cifar-10-batches-bin`` or ``cifar-100-binary``, or is that folder.
        name: Which dataset.
        split: Which part.

    Returns:
        Images (N, 32, 32, 3); class names from the dataset's own text file, or numbers without it.

    Raises:
        InputError: If a file is missing, has a wrong size, or holds wrong labels or names.
    """
    if name not in _CIFAR or split not in ("train", "test"):
        raise InputError(f"there is no {name!r} {split!r}: choose cifar10 or cifar100, and train or test")
    layout = _CIFAR[name]
    root = Path(folder)
    if (root / layout.folder).is_dir():
        root = root / layout.folder
    length = layout.label_bytes + 3 * _CIFAR_SIDE**2
    records = np.concatenate([_records(root / file, length) for file in layout.files[split]])
    pixels = records[:, layout.label_bytes :].reshape(-1, 3, _CIFAR_SIDE, _CIFAR_SIDE)
    labels = records[:, layout.label_bytes - 1].astype(np.int64)
    return Dataset(np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)), labels, _class_names(root, layout))


def load_npz(path: str | Path) -> Dataset:
    """A NumPy archive with the keys ``images``, ``labels`` and ``classes`` (see ``Dataset``); no pickles.

    Raises:
        InputError: If the file is missing or damaged, lacks a key, or its arrays are not a dataset.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            images, labels, names = (archive[key] for key in ("images", "labels", "classes"))
    except KeyError as error:
        raise InputError(f"{path} lacks an array ({error}): save images, labels and classes") from error
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise InputError(
            f"cannot read {path} as a dataset ({error}): write it with numpy.savez(path, images=...)"
        ) from error
    integral = labels.astype(np.int64) if np.issubdtype(labels.dtype, np.integer) else labels
    return Dataset(images, integral, tuple(str(name) for name in np.atleast_1d(names)))


def normalisation(dataset: Dataset) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, with pixels counted as 0..1.

    A constant channel gets the deviation 1/255, so that dividing by it is safe.
    """
    values = np.arange(256) / 255
    means, deviations = [], []
    for channel in range(dataset.images.shape[3]):
        counts = np.bincount(dataset.images[..., channel].reshape(-1), minlength=256)
        mean = float(np.average(values, weights=counts))
        means.append(mean)
        deviations.append(max(float(np.average((values - mean) ** 2, weights=counts)) ** 0.5, 1 / 255))
    return tuple(means), tuple(deviations)


def _check_images(images: Images) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape:
        raise InputError(
            f"images have shape {images.shape} and dtype {images.dtype}: "
            "give uint8 (N, H, W, C) with 1 or 3 channels and at least one image"
        )


def _check_labels(labels: Labels, images: int, classes: tuple[str, ...]) -> None:
    if len(set(classes)) != len(classes) or not all(classes):
        raise InputError(f"class names are empty or repeated ({', '.join(classes)}): give each its own name")
    if labels.dtype != np.int64 or labels.shape != (images,):
        raise InputError(
            f"labels have shape {labels.shape} and dtype {labels.dtype}: give one int64 for each of the {images} images"
        )
    if labels.min() < 0 or labels.max() >= len(classes):
        raise InputError(
            f"labels run from {labels.min()} to {labels.max()}, but there are {len(classes)} classes: "
            f"give 0..{len(classes) - 1}, or more class names"
        )
    empty = np.flatnonzero(np.bincount(labels, minlength=len(classes)) == 0)
    if len(empty):
        names = ", ".join(classes[c] for c in empty)
        raise InputError(f"no image of class {names}: add images of it, or leave the class out")


def _records(path: Path, length: int) -> Images:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"cannot read {path}: give the folder of the CIFAR binary version") from error
    if size == 0 or size % length:
        raise InputError(
            f"{path} has {size} bytes, not a multiple of {length} (one record): the download is incomplete "
            "or another version; get the binary version again"
        )
    return np.fromfile(path, np.uint8).reshape(-1, length)


def _class_names(root: Path, layout: _CifarLayout) -> tuple[str, ...]:
    path = root / layout.names
    if not path.is_file():
        return tuple(str(c) for c in range(layout.classes))
    names = tuple(path.read_text(encoding="utf-8").split())
    if len(names) != layout.classes:
        raise InputError(
            f"{path} has {len(names)} class names, not {layout.classes}: restore it, or delete it for numbers"
        )
    return names
