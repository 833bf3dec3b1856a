"""Another camera: the shift of domain that an on-device update has to follow."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pocketstep.data import Images
from pocketstep_device.errors import InputError

_Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Camera:
    """A deterministic model of a camera that differs from the one the training images came from.

    On pixels counted 0..1: ``pixel ** gamma * gain * cast``, then Gaussian blur, Gaussian noise, clipping.

    Attributes:
        gamma: Exponent; above 1 darkens the middle tones.
        gain: Factor on all channels.
        cast: Factor on each channel; images with one channel get the mean.
        blur: Standard deviation of the blur in pixels; 0 for none.
        noise: Standard deviation of the noise; 0 for none.

    Raises:
        InputError: If a value is out of range.
    """

    gamma: float = 1.0
    gain: float = 1.0
    cast: tuple[float, ...] = (1.0, 1.0, 1.0)
    blur: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        if not self.gamma > 0 or not self.gain > 0 or not self.cast or not min(self.cast) >= 0:
            raise InputError(
                f"a camera cannot have gamma {self.gamma}, gain {self.gain} and cast {self.cast}: "
                "give gamma and gain above 0, and a cast of 0 or more for each channel"
            )
        if not self.blur >= 0 or not self.noise >= 0:
            raise InputError(f"blur {self.blur} and noise {self.noise} are deviations: give 0 or more")

    def shoot(self, images: Images, seed: int = 0) -> Images:
        """The images as this camera would have taken them; the same seed gives the same noise.

        Args:
            images: uint8 (N, H, W, C), with one channel or as many as ``cast``.
            seed: Of the noise.

        Returns:
            uint8 (N, H, W, C), a new array.

        Raises:
            InputError: If the images are of another shape or dtype.
        """
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, len(self.cast)):
            raise InputError(
                f"this camera takes uint8 images (N, H, W, 1 or {len(self.cast)}), not {images.dtype} "
                f"{images.shape}: convert them, or give the camera another colour cast"
            )
        cast = np.asarray(self.cast if images.shape[3] > 1 else np.mean(self.cast), np.float32)
        light = (images.astype(np.float32) / 255) ** np.float32(self.gamma) * (self.gain * cast)
        light = _blurred(light.astype(np.float32), self.blur)
        if self.noise:
            rng = np.random.default_rng(seed)
            light += np.float32(self.noise) * rng.standard_normal(light.shape, np.float32)
        return np.rint(np.clip(light, 0, 1) * 255).astype(np.uint8)


CAMERAS = {
    "dim": Camera(gamma=1.8, gain=0.9, cast=(0.75, 0.95, 1.15), blur=0.9, noise=0.04),
    "night": Camera(gamma=2.2, gain=0.8, cast=(0.75, 0.95, 1.15), blur=1.1, noise=0.06),
    "warm": Camera(gamma=0.6, gain=1.0, cast=(1.2, 1.0, 0.75), blur=0.6, noise=0.05),
}
"""By name. ``dim``: darker, bluish, blurred and noisy; ``night``: more of all of it; ``warm``: pale and yellowish."""


def _blurred(images: _Floats, sigma: float) -> _Floats:
    """Separable Gaussian blur of (N, H, W, C) with mirrored edges."""
    if sigma == 0:
        return images
    radius = math.ceil(2 * sigma)
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    taps /= taps.sum()
    for axis in (1, 2):
        margins = [(radius, radius) if a == axis else (0, 0) for a in range(4)]
        padded = np.pad(images, margins, mode="symmetric")
        size = images.shape[axis]
        shifted = (padded.take(range(i, i + size), axis) * np.float32(tap) for i, tap in enumerate(taps))
        images = sum(shifted, np.zeros_like(images))
    return images
