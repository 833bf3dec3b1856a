"""Trains paths: the shared layers frozen, every row of the head within its own path."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from pocketstep.data import Dataset
from pocketstep.decouple.surgery import OTHER, need_decoupling, only_paths_trained
from pocketstep.history import History
from pocketstep.recipe import Recipe, TrainingRecipe
from pocketstep.stages import Watching, train
from pocketstep_device.errors import InputError


def fine_tune(
    model: nn.Module, data: Dataset, part: TrainingRecipe, recipe: Recipe, watching: Watching | None = None,
    *, like: Dataset | None = None, stage: str = "paths",
) -> History:  # fmt: skip
    """Trains a decoupled network's paths in place; classes weigh alike where it is one against all.

    Args:
        model: decoupled.
        data: images of its outputs, in their order.
        part: epochs, rates and augmentation.
        recipe: how images are normalised.
        watching: who is told.
        like: images whose mean and deviation normalise ``data``; None for its own.
        stage: name for progress.

    Raises:
        InputError: the network is not decoupled, or the data has other classes.
    """
    decoupling = need_decoupling(model)
    if data.classes != decoupling.outputs:
        raise InputError(
            f"images of {', '.join(data.classes)} do not fit paths of "
            f"{', '.join(decoupling.outputs)}: give images of the paths' classes"
        )
    loss = _Balanced(data) if decoupling.rest else None
    with only_paths_trained(model):
        return train(part, recipe, model, data, stage, watching, loss=loss, like=like)


def one_against_all(data: Dataset, name: str) -> Dataset:
    """The same images with two labels: a class, and ``other``.

    Raises:
        InputError: there is no such class.
    """
    if name not in data.classes:
        raise InputError(f"there is no class '{name}': choose among {', '.join(data.classes)}")
    labels = (data.labels != data.classes.index(name)).astype(np.int64)
    return Dataset(data.images, labels, (name, OTHER))


class _Balanced:
    """Cross-entropy whose classes weigh alike, however many images they have."""

    def __init__(self, data: Dataset) -> None:
        counts = torch.bincount(torch.from_numpy(data.labels), minlength=len(data.classes)).float()
        self.weights = len(data) / (len(data.classes) * counts)

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        logits: Tensor = model(images)
        return nn.functional.cross_entropy(logits.float(), labels, self.weights.to(logits.device))
