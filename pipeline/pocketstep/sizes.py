"""Image sizes of a run, as factors of the images' own at each step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pocketstep_device.errors import InputError

SizeSchedule = Callable[[int, int], float]
"""(step from 0, steps) -> factor of height and width."""

_STAGES = ((0.5, 0.5), (0.75, 0.75), (1.0, 1.0))
"""Until that share of the steps, that factor."""


def whole(step: int, steps: int) -> float:
    """Images as they are."""
    return 1.0


def growing(step: int, steps: int) -> float:
    """Half the size in the first half of the steps, three quarters until three quarters of them, then all of it.

    Progressive resizing (Howard 2018; Tan and Le 2021, EfficientNetV2, section 4): 0.52 of the arithmetic. For networks
    that end in global pooling.
    """
    return next(factor for until, factor in _STAGES if step < until * steps)


@torch.no_grad()
def check_smaller(model: nn.Module, images: Tensor) -> None:
    """That a network in evaluation mode takes images (B, C, H, W) as small as ``growing`` makes them.

    Raises:
        InputError: it does not.
    """
    for _, factor in _STAGES[:-1]:
        try:
            model(resized(images, factor))
        except RuntimeError as error:
            raise InputError(
                f"small_first shows the network images of {factor:g} of their size, which it does not take ({error}): "
                "leave it out, or choose a network that ends in global pooling"
            ) from error


def resized(images: Tensor, factor: float) -> Tensor:
    """Images (B, C, H, W) at ``factor`` of their height and width, bilinear over all pixels that a new one covers."""
    if factor == 1.0:
        return images
    size = [max(1, round(factor * side)) for side in images.shape[2:]]
    smaller: Tensor = nn.functional.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)
    return smaller
