"""Labelled pictures in folders, as people keep them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pocketstep.data import Dataset, Images
from pocketstep_device.errors import InputError

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def load_folder(folder: str | Path, size: tuple[int, int], channels: int, classes: Sequence[str]) -> Dataset:
    """Pictures in one folder a class, scaled so that they cover ``size`` and cropped at the centre.

    Args:
        folder: holds a folder for each class, named like it.
        size: (H, W).
        channels: 1 (grey) or 3.
        classes: names, in the order of the labels; each needs a folder with pictures.

    Raises:
        InputError: a folder is missing or empty, or a file is no picture.
    """
    root, images, labels = Path(folder), [], []
    for label, name in enumerate(classes):
        files = sorted(p for p in (root / name).glob("*") if p.suffix.lower() in PICTURES)
        if not files:
            raise InputError(f"{root / name} holds no pictures ({', '.join(PICTURES)}); every class needs some")
        images += [_picture(path, size, channels) for path in files]
        labels += [label] * len(files)
    return Dataset(np.stack(images), np.array(labels, np.int64), tuple(classes))


def _picture(path: Path, size: tuple[int, int], channels: int) -> Images:
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            upright = ImageOps.exif_transpose(opened).convert("RGB" if channels == 3 else "L")
            fitted = ImageOps.fit(upright, (size[1], size[0]), Image.Resampling.BILINEAR)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} is no readable picture: {error}; remove it or save it anew") from None
    return np.asarray(fitted, np.uint8).reshape(*size, channels)
