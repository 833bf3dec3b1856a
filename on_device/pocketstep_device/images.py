"""Reads images that a shell user names: numpy files only, so that a board needs no image library."""

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
    if "images" not in arrays:
        raise InputError(f"{path} has no array 'images', only {', '.join(arrays) or 'nothing'}")
    labels = arrays.get("labels")
    if labels is not None and (labels.dtype.kind != "U" or labels.shape != arrays["images"].shape[:1]):
        raise InputError(f"'labels' in {path} must be one class name (text) for each image")
    return arrays["images"], None if labels is None else [str(label) for label in labels]
