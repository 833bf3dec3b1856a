"""Images from outside: checked, and read from numpy files, so that a board needs no image library."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pocketstep_device.errors import InputError

Array = npt.NDArray[Any]


def read_images(path: Path) -> tuple[Array, list[str] | None]:
    """Images (N, H, W, C), and their labels where the file has them.

    Args:
        path: ``.npy`` with images, or ``.npz`` with ``images`` and, if labelled, ``labels`` (text).

    Raises:
        InputError: missing, unreadable or pickled file, or one without images.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        arrays = {name: loaded[name] for name in loaded.files} if hasattr(loaded, "files") else {"images": loaded}
    except FileNotFoundError:
        raise InputError(f"there is no file {path}; give a .npy or .npz file of images") from None
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
