"""Images from outside, checked: from numpy files, so that a board needs no image library, or from pictures."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pocketstep_device.errors import InputError
from pocketstep_device.pictures import is_picture, pictures_below, read_picture

Array = npt.NDArray[Any]


class Found(NamedTuple):
    """Images from outside: (N, H, W, C); what each is called; its class, None where nobody said."""

    images: Array
    names: list[str]
    labels: list[str] | None


def read_images(path: Path, shape: Sequence[int]) -> Found:
    """Images from numpy's files as they are, or from pictures, scaled and cropped.

    Args:
        path: ``.npy`` with images; ``.npz`` with ``images`` and, if labelled, ``labels`` (text); a picture; or a folder
            of pictures, labelled where all of them lie in folders of their own, one a class.
        shape: (H, W, C) of pictures.

    Raises:
        InputError: missing, unreadable or pickled file, or one without images.
        MissingToolError: pictures, and Pillow is not installed.
    """
    if path.is_dir() or is_picture(path):
        return _from_pictures(path, shape)
    images, labels = _from_numpy(path)
    return Found(images, [str(index) for index in range(len(images) if images.ndim else 0)], labels)


def _from_pictures(path: Path, shape: Sequence[int]) -> Found:
    height, width, channels = shape
    if not path.is_dir():
        return Found(read_picture(path, (height, width), channels)[None], [path.name], None)
    files = pictures_below(path)
    inside = [file.relative_to(path).parts for file in files]
    try:
        images = np.stack([read_picture(file, (height, width), channels) for file in files])
    except MemoryError as error:
        raise InputError(f"{path} does not fit into memory ({error}); give fewer pictures at once") from None
    labels = [parts[0] for parts in inside] if all(len(parts) == 2 for parts in inside) else None
    return Found(images, ["/".join(parts) for parts in inside], labels)


def _from_numpy(path: Path) -> tuple[Array, list[str] | None]:
    try:
        loaded = np.load(path, allow_pickle=False)
        arrays = {name: loaded[name] for name in loaded.files} if hasattr(loaded, "files") else {"images": loaded}
    except FileNotFoundError:
        raise InputError(
            f"there is no file {path}; give a .npy or .npz file of images, or a folder of pictures"
        ) from None
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be read as .npy or .npz ({error}); save it with numpy.savez") from None
    except MemoryError as error:
        raise InputError(f"{path} does not fit into memory ({error}); give fewer images at once") from None
    if "images" not in arrays:
        raise InputError(f"{path} has no array 'images', only {', '.join(arrays) or 'nothing'}")
    labels = arrays.get("labels")
    if labels is not None and (labels.dtype.kind != "U" or labels.shape != arrays["images"].shape[:1]):
        raise InputError(f"'labels' in {path} must be one class name (text) for each image")
    return arrays["images"], None if labels is None else [str(label) for label in labels]


def check_images(images: Array, shape: tuple[int, ...]) -> Array:
    """Images as (N, H, W, C), or an InputError that says what is wrong with them."""
    array = np.asarray(images)
    if array.ndim == len(shape):
        array = array[None]
    if array.shape[1:] != shape or len(array) == 0:
        raise InputError(
            f"images of shape {np.shape(images)} given; this bundle takes (N, {', '.join(map(str, shape))})"
        )
    if array.dtype != np.uint8:
        if array.dtype.kind != "f":
            raise InputError(f"images are {array.dtype}; give uint8, or floats from 0 to 255")
        if not np.isfinite(array).all():
            raise InputError("an image has NaN or infinite pixels; leave it out")
        if array.min() < 0 or array.max() > 255:
            raise InputError(f"pixels run from {array.min():g} to {array.max():g}; the range is 0 to 255")
    return array
