"""How training images are varied and normalised, with torchvision's kernels and reproducible random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pocketstep_device.errors import InputError


@dataclass(frozen=True)
class Draws:
    """The random numbers of one batch; None: not asked for.

    Attributes:
        corners: (B, 2) of crops.
        flips: (B,).
        holes: (B, 2), centres of cutout.
        shares: (B,) of each image where it is mixed with another one.
        patches: (B, 4), top, left, bottom and right of what is cut from the other one; empty where all of it is mixed.
    """

    corners: Tensor | None = None
    flips: Tensor | None = None
    holes: Tensor | None = None
    shares: Tensor | None = None
    patches: Tensor | None = None

    def take(self, rows: slice) -> Draws:
        """Those of some of the batch's images."""
        return Draws(**{name: None if part is None else part[rows] for name, part in vars(self).items()})


@dataclass(frozen=True)
class Augmentation:
    """Pad and crop, flip, cutout (Zhao et al. §5: 4 pixels, flips, 16 x 16), and mixtures of two images.

    Attributes:
        shift: pixels of zeros padded on each side; the crop back to the old size is at a random place.
        mirror: whether half of the images are flipped left-right; not for digits or letters.
        cutout: side in pixels of the square that is masked out, at a place whose centre lies in the image.
        mix: whether images are mixed in pairs: half of them as a whole, at a share that is drawn evenly (mixup, Zhang
            et al. 2018), and into half a rectangle of the other is put, each side 1/4 to 3/4 of the image's (CutMix,
            Yun et al. 2019). They have no label any more: for what a teacher says of them.

    Raises:
        InputError: a number is negative.
    """

    shift: int = 0
    mirror: bool = False
    cutout: int = 0
    mix: bool = False

    def __post_init__(self) -> None:
        if self.shift < 0 or self.cutout < 0:
            raise InputError(f"shift is {self.shift} and cutout {self.cutout}: both count pixels, give 0 or more")

    def draw(self, count: int, size: tuple[int, int], generator: torch.Generator) -> Draws:
        """Random numbers for ``count`` images of ``size`` (H, W)."""
        corners = flips = holes = shares = patches = None
        if self.shift:
            top, left = torch.randint(2 * self.shift + 1, (2, count, 1), generator=generator)
            corners = torch.cat([top, left], 1)
        if self.mirror:
            flips = torch.rand(count, generator=generator) < 0.5
        if self.cutout:
            holes = (torch.rand(count, 2, generator=generator) * torch.tensor(size)).long()
        if self.mix:
            shares = torch.rand(count, generator=generator)
            sides = ((0.25 + 0.5 * torch.rand(count, 2, generator=generator)) * torch.tensor(size)).long()
            sides[torch.rand(count, generator=generator) < 0.5] = 0
            first = (torch.rand(count, 2, generator=generator) * (torch.tensor(size) - sides)).long()
            patches = torch.cat([first, first + sides], 1)
        return Draws(corners, flips, holes, shares, patches)

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


def blended(images: Tensor, draws: Draws) -> Tensor:
    """Mixes each image (B, C, H, W) with the one before it."""
    if draws.shares is None or draws.patches is None:
        return images
    others = images.roll(1, 0)
    top, left, bottom, right = draws.patches.T[:, :, None, None]
    rows, columns = torch.arange(images.shape[2]).view(-1, 1), torch.arange(images.shape[3])
    inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
    whole = torch.lerp(others, images, draws.shares.view(-1, 1, 1, 1))
    cut = (bottom > top)[:, None]
    return torch.where(cut, torch.where(inside[:, None], others, images), whole)


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
