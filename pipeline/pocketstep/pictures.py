"""Labelled pictures in folders, as people keep them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pocketstep.data import Dataset, Images
from pocketstep_device.errors import InputError
from pocketstep_device.pictures import PICTURES, is_picture, read_picture


def class_folders(root: str | Path) -> list[str]:
    """The classes of a folder: its subfolders, by name.

    Raises:
        InputError: there is no such folder, or it holds no folders.
    """
    try:
        names = sorted(path.name for path in Path(root).iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise InputError(f"cannot read {root} ({error.strerror}): give a folder with a folder for each class") from None
    if not names:
        raise InputError(f"{root} holds no folders: put each class's pictures in a folder named like it")
    return names


def load_folder(
    folder: str | Path, size: tuple[int, int] | None, channels: int | None, classes: Sequence[str]
) -> Dataset:
    """Pictures in one folder a class, scaled so that they cover ``size`` and cropped at the centre.

    Args:
        folder: holds a folder for each class, named like it.
        size: (H, W); None takes the pictures as they are, all of one size.
        channels: 1 (grey) or 3; None takes what the pictures have, all of one kind.
        classes: names, in the order of the labels; each needs a folder with pictures.

    Raises:
        InputError: a folder is missing or empty, a file is no picture, or the pictures differ where they must not.
    """
    root, images, labels, paths = Path(folder), [], [], []
    for label, name in enumerate(classes):
        files = sorted(p for p in (root / name).glob("*") if is_picture(p))
        if not files:
            raise InputError(f"{root / name} holds no pictures ({', '.join(PICTURES)}); every class needs some")
        images += [read_picture(path, size, channels) for path in files]
        labels += [label] * len(files)
        paths += files
    _check_alike(images, paths)
    return Dataset(np.stack(images), np.array(labels, np.int64), tuple(classes))


def _check_alike(images: Sequence[Images], paths: Sequence[Path]) -> None:
    for image, path in zip(images, paths, strict=True):
        if image.shape[2] != images[0].shape[2]:
            kinds = {1: "grey", 3: "coloured"}
            raise InputError(
                f"{path} is {kinds[image.shape[2]]}, {paths[0]} {kinds[images[0].shape[2]]}: "
                "save all pictures in one of the two"
            )
        if image.shape != images[0].shape:
            raise InputError(
                f"{path} is {image.shape[1]} x {image.shape[0]} pixels, {paths[0]} {images[0].shape[1]} x "
                f"{images[0].shape[0]}: give a size (data.size in a recipe) that all are scaled to"
            )
