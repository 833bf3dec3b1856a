"""One function that reads the images of a recipe, whatever form they have."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, cast

import numpy as np

from pocketstep.data import Dataset, load_cifar, load_digits, load_npz
from pocketstep.pictures import class_folders, load_folder
from pocketstep_device.errors import InputError

NAMES = ("digits", "cifar10", "cifar100", "npz", "folder")
_TEST_SHARE = 0.2


def load_data(name: str, folder: str | Path = "", *, size: int = 0, seed: int = 0) -> tuple[Dataset, Dataset]:
    """The training and the test images.

    ``digits``: scikit-learn's, at ``size`` pixels. ``cifar10``, ``cifar100``: a folder with the standard binary
    version. ``npz``: an archive, or a folder with ``train.npz`` and ``test.npz`` (see ``load_npz``). ``folder``: a
    folder for each class, or ``train`` and ``test`` with such folders. Where there is one part only, a fifth of every
    class becomes the test set.

    Args:
        name: the form.
        folder: where the images are.
        size: side in pixels that pictures of folders are brought to; 0 takes them as they are, all of one size.
        seed: of a split.

    Raises:
        InputError: an unknown form, a missing or damaged file, images that do not go together, a class without images
            or with a single one, or classes that differ between the two parts.
    """
    if name not in NAMES:
        raise InputError(f"there are no images '{name}': choose one of {', '.join(NAMES)}")
    if name == "digits":
        train, test = load_digits(size or 16, seed)
    elif not str(folder):
        raise InputError(f"no folder for the images of '{name}': give data.folder in the recipe, or --data")
    elif name in ("cifar10", "cifar100"):
        which = cast(Literal["cifar10", "cifar100"], name)
        train, test = load_cifar(folder, which, "train"), load_cifar(folder, which, "test")
    elif name == "npz":
        train, test = _archives(Path(folder), seed)
    else:
        train, test = _folders(Path(folder), size, seed)
    return _checked(train, test)


def _archives(path: Path, seed: int) -> tuple[Dataset, Dataset]:
    if path.is_dir():
        return load_npz(path / "train.npz"), load_npz(path / "test.npz")
    return load_npz(path).split(_TEST_SHARE, seed)


def _folders(root: Path, size: int, seed: int) -> tuple[Dataset, Dataset]:
    shape = (size, size) if size else None
    if not ((root / "train").is_dir() and (root / "test").is_dir()):
        return load_folder(root, shape, None, class_folders(root)).split(_TEST_SHARE, seed)
    names, others = class_folders(root / "train"), class_folders(root / "test")
    if names != others:
        odd = sorted(set(names) ^ set(others))
        raise InputError(f"{root}: class '{odd[0]}' is in only one of train and test; give both the same folders")
    return load_folder(root / "train", shape, None, names), load_folder(root / "test", shape, None, names)


def _checked(train: Dataset, test: Dataset) -> tuple[Dataset, Dataset]:
    if train.classes != test.classes:
        raise InputError("training and test images name other classes: give both the same, in the same order")
    if train.images.shape[1:] != test.images.shape[1:]:
        raise InputError(
            f"training images are {train.images.shape[1:]} (height, width, channels), test images "
            f"{test.images.shape[1:]}: give both the same"
        )
    single = np.flatnonzero(np.bincount(train.labels, minlength=len(train.classes)) < 2)
    if len(single):
        names = ", ".join(train.classes[c] for c in single)
        raise InputError(f"only one training image of class {names}: some are held back, so give two or more")
    return train, test
