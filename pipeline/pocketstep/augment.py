"""How training images are varied and normalised, with torchvision's kernels and reproducible random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pocketstep_device.errors import InputError


@dataclass(frozen=True)
class Draws:
    """The random numbers of one batch: crop corners (B, 2), flips (B,), cutout centres (B, 2); None: not asked for."""

    corners: Tensor | None
    flips: Tensor | None
    holes: Tensor | None

    def take(self, rows: slice) -> Draws:
        """Those of some of the batch's images."""
        return Draws(*(None if part is None else part[rows] for part in (self.corners, self.flips, self.holes)))


@dataclass(frozen=True)
class Augmentation:
    """Pad and crop, flip, cutout (Zhao et al. §5: 4 pixels, flips, 16 x 16).

    Attributes:
        shift: pixels of zeros padded on each side; the crop back to the old size is at a random place.
        mirror: whether half of the images are flipped left-right; not for digits or letters.
        cutout: side in pixels of the square that is masked out, at a place whose centre lies in the image.

    Raises:
        InputError: a number is negative.
    """

    shift: int = 0
    mirror: bool = False
    cutout: int = 0

    def __post_init__(self) -> None:
        if self.shift < 0 or self.cutout < 0:
            raise InputError(f"shift is {self.shift} and cutout {self.cutout}: both count pixels, give 0 or more")

    def draw(self, count: int, size: tuple[int, int], generator: torch.Generator) -> Draws:
        """Random numbers for ``count`` images of ``size`` (H, W)."""
        corners = flips = holes = None
        if self.shift:
            top, left = torch.randint(2 * self.shift + 1, (2, count, 1), generator=generator)
            corners = torch.cat([top, left], 1)
        if self.mirror:
            flips = torch.rand(count, generator=generator) < 0.5
        if self.cutout:
            holes = (torch.rand(count, 2, generator=generator) * torch.tensor(size)).long()
        return Draws(corners, flips, holes)

    def move(self, images: Tensor, draws: Draws) -> Tensor:
        """Crops and flips uint8 images (B, C, H, W)."""
        from torchvision.transforms.v2 import functional as kernels

        if draws.corners is not None:
            height, width = images.shape[2:]
            padded = kernels.pad_image(images, [self.shift] * 4)
            places = draws.corners.tolist()
            crops = [kernels.crop_image(p, y, x, height, width) for p, (y, x) in zip(padded, places, strict=True)]
            images = torch.stack(crops)
        if draws.flips is not None:
            images = images.clone()
            images[draws.flips] = kernels.horizontal_flip_image(images[draws.flips])
        return images

    def mask(self, images: Tensor, draws: Draws) -> Tensor:
        """Sets a square of each normalised image (B, C, H, W) to 0, in place."""
        if draws.holes is None:
            return images
        from torchvision.transforms.v2 import functional as kernels

        height, width = images.shape[2:]
        black = torch.zeros(1)
        for image, (y, x) in zip(images, draws.holes.tolist(), strict=True):
            top, left = max(y - self.cutout // 2, 0), max(x - self.cutout // 2, 0)
            bottom = min(y - self.cutout // 2 + self.cutout, height)
            right = min(x - self.cutout // 2 + self.cutout, width)
            kernels.erase_image(image, top, left, bottom - top, right - left, black, inplace=True)
        return images


def normalised(images: Tensor, mean: Sequence[float], std: Sequence[float], per_image: bool = False) -> Tensor:
    """Turns uint8 images (B, C, H, W) into float32: (pixel / 255 - mean) / std, channel by channel.

    Args:
        images: as said.
        mean: of each channel, pixels counted 0..1.
        std: likewise.
        per_image: take mean and deviation of each image instead (Zhao et al. §5); the two above do not matter then.

    Raises:
        InputError: If ``mean`` or ``std`` has not one value per channel, or a deviation is not positive.
    """
    values = images.float() / 255
    if per_image:
        deviation, centre = torch.std_mean(values, (1, 2, 3), correction=0, keepdim=True)
        return (values - centre) / deviation.clamp(min=1 / 255)
    channels = images.shape[1]
    if len(mean) != channels or len(std) != channels or min(std) <= 0:
        raise InputError(
            f"images have {channels} channels, mean is {tuple(mean)} and std {tuple(std)}: "
            "give one of each per channel, deviations above 0"
        )
    return (values - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
