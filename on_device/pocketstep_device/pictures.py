"""Pictures in files, as people keep them; decoded by Pillow where it is installed: a board can do without."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from pocketstep_device.errors import InputError, MissingToolError

Images = npt.NDArray[np.uint8]
PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_GREY = ("1", "L", "LA", "I", "I;16", "F")


def is_picture(path: Path) -> bool:
    """Whether its name says that it is one."""
    return path.suffix.lower() in PICTURES and path.is_file()


def pictures_below(root: Path) -> list[Path]:
    """All pictures in a folder and in its folders, in the order of their paths.

    Raises:
        InputError: there are none.
    """
    files = sorted(path for path in root.rglob("*") if is_picture(path))
    if not files:
        raise InputError(f"{root} holds no pictures ({', '.join(PICTURES)}); give a folder of some")
    return files


def read_picture(path: Path, size: tuple[int, int] | None, channels: int | None) -> Images:
    """One picture, turned as its camera says, (H, W, C).

    Args:
        path: of the file.
        size: (H, W) that it is scaled to cover, and cropped to at the centre; None takes it as it is.
        channels: 1 (grey) or 3; None takes what it has.

    Raises:
        InputError: the file is missing or no picture.
        MissingToolError: Pillow is not installed.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise MissingToolError(
            f"{path} is a picture, which Pillow reads; pip install 'pocketstep-device[pictures]', "
            "or give a .npy or .npz file"
        ) from None
    try:
        with Image.open(path) as opened:
            mode = "L" if channels == 1 or (channels is None and opened.mode in _GREY) else "RGB"
            picture = ImageOps.exif_transpose(opened).convert(mode)
            if size:
                picture = ImageOps.fit(picture, (size[1], size[0]), Image.Resampling.BILINEAR)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} is no readable picture: {error}; remove it or save it anew") from None
    pixels = np.asarray(picture, np.uint8)
    return pixels.reshape(*pixels.shape[:2], -1)
