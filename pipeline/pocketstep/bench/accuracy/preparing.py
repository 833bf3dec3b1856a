"""Losses that prepare a base for classes that come later."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pocketstep.loop import Loss

TURNS = 4
UPRIGHT = 0.5
"""Share of a batch that is not turned."""


class Turned(nn.Module):
    """Cross-entropy of (class, quarter turns) on randomly turned images, from a head with four rows a class.

    Labels augmented by rotation (Lee et al. 2020; PASS, Zhu et al. 2021, for class increments): features that tell
    turns apart say more about classes that come later.
    """

    def __init__(self, classes: int, smoothing: float, generator: torch.Generator) -> None:
        super().__init__()
        self.classes, self.smoothing, self.generator = classes, smoothing, generator

    def forward(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Square images (B, C, H, W), labels (B,) -> scalar."""
        count = len(images)
        upright = torch.rand(count, generator=self.generator) < UPRIGHT
        turns = torch.where(upright, 0, torch.randint(1, TURNS, (count,), generator=self.generator))
        images = images.clone()
        for quarter in range(1, TURNS):
            images[turns == quarter] = images[turns == quarter].rot90(quarter, (2, 3))
        logits: Tensor = model(images)
        joint = labels + self.classes * turns.to(labels.device)
        return nn.functional.cross_entropy(logits.float(), joint, label_smoothing=self.smoothing)


def smoothed(smoothing: float) -> Loss:
    """Cross-entropy with label smoothing."""

    def loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        logits: Tensor = model(images)
        return nn.functional.cross_entropy(logits.float(), labels, label_smoothing=smoothing)

    return loss
