"""The cloud's stages before compilation: data, teacher, compressed student."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch_pruning as tp

from pocketstep.data import Dataset, load_digits, normalisation
from pocketstep.distill import KnowledgeTransfer
from pocketstep.networks import ResidualNet
from pocketstep.prune import ThinReport, shallow, thin
from pocketstep.recipe import Recipe
from pocketstep.training import Progress, accuracy_per_class, evaluate, fit, prepare
from pocketstep_device.errors import InputError

OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class Material:
    """The images.

    ``cloud``, ``held_back`` (no training sees it) and ``cloud_test`` of the classes that the cloud knows; ``train`` and
    ``test`` of all classes.
    """

    cloud: Dataset
    held_back: Dataset
    cloud_test: Dataset
    train: Dataset
    test: Dataset


@dataclass(frozen=True)
class Trained:
    """A trained network and what it is worth: mean per-class accuracy (0 to 1), size, MACs an image, seconds."""

    network: ResidualNet
    accuracy: float
    parameters: int
    macs: int
    seconds: float
    thinned: ThinReport | None = None

    def figures(self) -> dict[str, Any]:
        """For reports."""
        return {
            "accuracy": self.accuracy,
            "parameters": self.parameters,
            "macs": self.macs,
            "seconds": self.seconds,
        }


def load_material(recipe: Recipe) -> Material:
    """The recipe's data; training uses the recipe's threads from here on.

    Raises:
        InputError: unknown data set, or fewer classes than the cloud shall know plus one.
    """
    if recipe.data.name != "digits":
        raise InputError(f"the recipe's data.name is '{recipe.data.name}'; this version embeds 'digits' only")
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    train, test = load_digits(recipe.data.size, recipe.data.seed)
    if recipe.data.cloud_classes >= len(train.classes):
        raise InputError(
            f"the recipe keeps {recipe.data.cloud_classes} of {len(train.classes)} classes in the cloud; leave at "
            "least one for the device"
        )
    known = list(train.classes[: recipe.data.cloud_classes])
    cloud, held_back = train.select(known).split(recipe.data.held_back, recipe.data.seed)
    return Material(cloud, held_back, test.select(known), train, test)


def train_teacher(recipe: Recipe, material: Material, on_progress: OnProgress | None = None) -> Trained:
    """The teacher on the cloud's classes."""
    start, part, data = time.monotonic(), recipe.teacher, material.cloud
    mean, std = normalisation(data)
    channels = data.images.shape[3]
    teacher = ResidualNet(len(data.classes), channels, part.widths, part.blocks, seed=part.seed)
    fit(
        teacher, data, epochs=part.epochs, batch=part.batch, learning_rate=part.learning_rate, seed=part.seed,
        mean=mean, std=std, augment=part.augment, stage="teacher", on_progress=on_progress,
    )  # fmt: skip
    return judge(teacher, material, time.monotonic() - start)


def compress(
    recipe: Recipe, material: Material, teacher: ResidualNet, on_progress: OnProgress | None = None
) -> Trained:
    """Shallow, thin, and knowledge transfer from the teacher (Zhao et al. sections 3 and 4.1)."""
    start, part, transfer, data = time.monotonic(), recipe.compress, recipe.transfer, material.cloud
    mean, std = normalisation(data)
    student = shallow(teacher) if part.shallow else teacher
    images = prepare(data.per_class(part.images_per_class, recipe.data.seed).images, mean, std)
    thinned, report = thin(student, images, part.threshold, min_width=part.min_width, round_to=part.round_to)
    first, second, third = transfer.weights
    with KnowledgeTransfer(teacher, thinned, (first, second, third)) as loss:
        fit(
            thinned, data, epochs=transfer.epochs, batch=transfer.batch, learning_rate=transfer.learning_rate,
            seed=transfer.seed, mean=mean, std=std, augment=transfer.augment, loss=loss, stage="transfer",
            on_progress=on_progress,
        )  # fmt: skip
    return judge(thinned, material, time.monotonic() - start, report)


def judge(network: ResidualNet, material: Material, seconds: float = 0.0, report: ThinReport | None = None) -> Trained:
    """Accuracy on test images of the cloud's classes, parameters and MACs."""
    mean, std = normalisation(material.cloud)
    test = material.cloud_test
    classes = accuracy_per_class(evaluate(network, test, mean, std), test.labels, len(test.classes))
    height, width, channels = test.images.shape[1:]
    macs, parameters = tp.utils.count_ops_and_params(network, torch.zeros(1, channels, height, width))
    return Trained(network, float(np.nanmean(classes)), int(parameters), int(macs), seconds, report)
