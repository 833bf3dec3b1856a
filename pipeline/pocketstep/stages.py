"""The cloud's stages before compilation: data, teacher, compressed student."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch_pruning as tp
from torch import nn

from pocketstep.architectures import Blueprint, build_network
from pocketstep.criteria import prune
from pocketstep.data import Dataset, normalisation
from pocketstep.distill import KnowledgeTransfer
from pocketstep.features import FeatureTransfer, linear_head
from pocketstep.groups import can_shorten, find_groups, last_convolutions
from pocketstep.history import History, OnProgress, Watch
from pocketstep.loop import Loss
from pocketstep.networks import ResidualNet
from pocketstep.parallel import best_device
from pocketstep.prune import ThinReport, thin
from pocketstep.recipe import Recipe, TrainingRecipe, TransferRecipe
from pocketstep.rivals import Hints, SoftLogits
from pocketstep.shallow import shallow
from pocketstep.sources import load_data
from pocketstep.training import accuracy_per_class, evaluate, fit, prepare
from pocketstep_device.errors import InputError


@dataclass(frozen=True)
class Material:
    """The images.

    ``cloud``, ``held_back`` (no training sees it) and ``cloud_test`` of the classes that the cloud knows; ``train`` and
    ``test`` of all classes; ``elsewhere`` is the part of ``train`` that devices see: all of it, or what the cloud does
    not have where the recipe says how many images the cloud has.
    """

    cloud: Dataset
    held_back: Dataset
    cloud_test: Dataset
    train: Dataset
    test: Dataset
    elsewhere: Dataset


@dataclass(frozen=True)
class Trained:
    """A trained network and what it is worth: mean per-class accuracy (0 to 1), size, MACs an image, seconds.

    ``notes`` are sentences that people should read.
    """

    network: nn.Module
    accuracy: float
    parameters: int
    macs: int
    seconds: float
    thinned: ThinReport | None = None
    notes: tuple[str, ...] = ()

    def figures(self) -> dict[str, Any]:
        """For reports."""
        return {
            "accuracy": self.accuracy,
            "parameters": self.parameters,
            "macs": self.macs,
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class Watching:
    """Who is told about trainings, and the folder that keeps them while they run (None: they are not kept)."""

    on_progress: OnProgress | None = None
    on_step: OnProgress | None = None
    folder: Path | None = None


def load_material(recipe: Recipe, folder: str | Path = "") -> Material:
    """The recipe's data; training uses the recipe's threads from here on.

    Args:
        recipe: what to load.
        folder: where the images are, if not where the recipe says.

    Raises:
        InputError: see ``load_data``; or fewer classes than the cloud shall know, plus one where there is neither
            [fleet] nor [measures]; or fewer images than the cloud shall have, plus one.
    """
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    part = recipe.data
    train, test = load_data(part.name, folder or part.folder, size=part.size, seed=part.seed)
    for_device = recipe.fleet is None and recipe.measures is None
    if part.cloud_classes > len(train.classes) - for_device:
        raise InputError(
            f"the recipe keeps {part.cloud_classes} of {len(train.classes)} classes in the cloud; leave at "
            "least one for the device"
        )
    known = list(train.classes[: part.cloud_classes])
    own, elsewhere = train.divide(part.cloud_images, part.seed) if part.cloud_images else (train, train)
    cloud, held_back = own.select(known).split(part.held_back, part.seed)
    return Material(cloud, held_back, test.select(known), train, test, elsewhere)


def new_teacher(recipe: Recipe, data: Dataset) -> nn.Module:
    """The recipe's teacher, untrained, for the classes and images of ``data``."""
    part, (height, width, channels) = recipe.teacher, data.images.shape[1:]
    if part.network:
        blueprint = Blueprint(part.network, len(data.classes), channels, (height, width))
        return build_network(blueprint, seed=part.seed)
    return ResidualNet(len(data.classes), channels, part.widths, part.blocks, seed=part.seed)


def check_teacher(teacher: nn.Module, data: Dataset) -> None:
    """Whether a teacher takes such images and knows such classes.

    Raises:
        InputError: it does not.
    """
    images = prepare(data.images[:1], *normalisation(data))
    try:
        with torch.no_grad():
            outputs = teacher.eval().cpu()(images).shape[1]
    except RuntimeError as error:
        raise InputError(f"the teacher cannot take images of {data.images.shape[1:]}: {error}") from None
    if outputs != len(data.classes):
        raise InputError(
            f"the teacher knows {outputs} classes, the recipe's cloud {len(data.classes)}: give the teacher that was "
            "trained on them, or change data.cloud_classes"
        )


def train_teacher(recipe: Recipe, material: Material, watching: Watching | None = None) -> Trained:
    """The teacher on the cloud's classes."""
    start = time.monotonic()
    teacher = new_teacher(recipe, material.cloud)
    check_teacher(teacher, material.cloud)  # before the long work
    if recipe.compress.shallow and can_shorten(find_groups(teacher, recipe.compress.pattern or None)):
        shallow(teacher, recipe.compress.pattern or None)
    train(recipe.teacher, recipe, teacher.to(best_device()), material.cloud, "teacher", watching)
    return judge(teacher.cpu(), material, recipe, time.monotonic() - start)


def compress(
    recipe: Recipe, material: Material, teacher: nn.Module, watching: Watching | None = None
) -> Trained:  # fmt: skip
    """Shallow, thin, and knowledge transfer from the teacher (Zhao et al. sections 3 and 4.1).

    Raises:
        InputError: the teacher does not know the recipe's classes.
    """
    start, data = time.monotonic(), material.cloud
    check_teacher(teacher, data)
    student, notes = shortened(recipe, teacher)
    thinned, report = narrowed(recipe, student, data)
    device = best_device()
    transfer(recipe, teacher.to(device), thinned.to(device), data, watching)
    teacher.cpu()
    trained = judge(thinned.cpu(), material, recipe, time.monotonic() - start)
    return replace(trained, thinned=report, notes=notes)


def shortened(recipe: Recipe, teacher: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """The shallow network, or the teacher itself where it has no groups; and what to tell about it."""
    pattern = recipe.compress.pattern or None
    if not recipe.compress.shallow:
        return teacher, ()
    if not can_shorten(find_groups(teacher, pattern)):
        return teacher, ("The network has no group of several blocks: it was made thin, not shallow.",)
    return shallow(teacher, pattern), ()


def narrowed(recipe: Recipe, student: nn.Module, data: Dataset) -> tuple[nn.Module, ThinReport]:
    """The thin network, by the recipe's criterion."""
    part = recipe.compress
    few = data.per_class(part.images_per_class, recipe.data.seed)
    images = prepare(few.images, *normalisation(data), recipe.data.per_image)
    if part.importance == "activation":
        return thin(student, images, part.threshold, min_width=part.min_width, round_to=part.round_to)
    return prune(
        student, images, importance=part.importance, pruning_ratio=part.pruning_ratio, round_to=part.round_to,
        labels=torch.from_numpy(few.labels), seed=recipe.data.seed,
    )  # fmt: skip


def transfer(
    recipe: Recipe, teacher: nn.Module, student: nn.Module, data: Dataset, watching: Watching | None = None, *,
    stage: str = "transfer", watch: Watch | None = None, labelled: bool = True, like: Dataset | None = None,
) -> list[History]:  # fmt: skip
    """Retrains a student by the recipe's method; FitNet's hints take the first third of the epochs.

    Args:
        recipe: its [transfer] and [compress].
        teacher: on the student's device.
        student: trained in place.
        data: what to learn.
        watching: who is told.
        stage: name for progress.
        watch: what to measure on the way.
        labelled: whether ``blocks`` looks at labels.
        like: images whose mean and deviation normalise ``data``; None for its own.

    Returns:
        The history of each of the method's stages.
    """
    part, pattern = recipe.transfer, recipe.compress.pattern or None
    if part.trainable == "last":
        only_last(student, pattern)
    settings: dict[str, Any] = {"watching": watching, "watch": watch, "like": like}
    if part.method == "none":
        return [train(part, recipe, student, data, stage, **settings)]
    if part.method == "blocks":
        first, second, third = part.weights
        with KnowledgeTransfer(
            teacher, student, (first, second, third), labelled=labelled, pattern=pattern
        ) as blocks:  # fmt: skip
            return [train(part, recipe, student, data, stage, loss=blocks, **settings)]
    if part.method == "features":
        with FeatureTransfer(teacher, student) as features:
            return [train(part, recipe, student, data, stage, loss=features, **settings)]
    soft = SoftLogits(teacher, part.temperature)
    if part.method == "hinton":
        return [train(part, recipe, student, data, stage, loss=soft, **settings)]
    begin = max(part.epochs // 3, 1)
    with Hints(teacher, student, pattern) as hints:
        hints.to(next(student.parameters()).device)
        first_part = replace(part, epochs=begin, learning_rate=part.learning_rate / 10)
        histories = [train(first_part, recipe, student, data, f"{stage}-hints", loss=hints, **settings)]
    rest = replace(part, epochs=max(part.epochs - begin, 1))
    return [*histories, train(rest, recipe, student, data, stage, loss=soft, **settings)]


def only_last(student: nn.Module, pattern: str | None = None) -> None:
    """Freezes all but the last convolution of each group (Zhao et al. §4.1) and the head.

    Raises:
        InputError: the network has no groups.
    """
    names = last_convolutions(student, find_groups(student, pattern))
    if not names:
        raise InputError("transfer.trainable = 'last' needs groups of blocks, and this network has none: use 'all'")
    head = linear_head(student)
    student.requires_grad_(False)
    for module in [*(student.get_submodule(name) for name in names), head]:
        module.requires_grad_(True)


def train(
    part: TrainingRecipe, recipe: Recipe, network: nn.Module, data: Dataset, stage: str,
    watching: Watching | None = None, *, loss: Loss | None = None, watch: Watch | None = None,
    like: Dataset | None = None,
) -> History:  # fmt: skip
    """``fit`` as a recipe's section says; ``like`` as in ``transfer``."""
    told = watching or Watching()
    mean, std = normalisation(like or data)
    return fit(
        network, data, epochs=part.epochs, batch=part.batch, learning_rate=part.learning_rate, seed=part.seed,
        mean=mean, std=std, augment=part.augment, shift=part.shift, mirror=part.mirror, cutout=part.cutout,
        mix=isinstance(part, TransferRecipe) and part.mix, per_image=recipe.data.per_image, schedule=part.schedule,
        small_first=part.small_first, precision=part.precision, loss=loss, stage=stage,
        watch=watch, checkpoint=told.folder / f"{stage}.training" if told.folder else None,
        key=f"{part} {type(loss).__name__} {getattr(loss, 'labelled', True)}",
        on_progress=told.on_progress, on_step=told.on_step,
    )  # fmt: skip


def judge(network: nn.Module, material: Material, recipe: Recipe, seconds: float = 0.0) -> Trained:
    """Accuracy on test images of the cloud's classes, parameters and MACs."""
    test = material.cloud_test
    classes = accuracy_of(network, test, material.cloud, recipe)
    macs, parameters = size_of(network, test)
    return Trained(network, float(np.nanmean(classes)), parameters, macs, seconds)


def accuracy_of(network: nn.Module, test: Dataset, like: Dataset, recipe: Recipe) -> npt.NDArray[np.float64]:
    """Accuracy (0..1) of each class; ``like`` as in ``transfer``."""
    logits = evaluate(network, test, *normalisation(like), per_image=recipe.data.per_image)
    return accuracy_per_class(logits, test.labels, len(test.classes))


def size_of(network: nn.Module, data: Dataset) -> tuple[int, int]:
    """(multiply-accumulates of one image, parameters)."""
    height, width, channels = data.images.shape[1:]
    image = torch.zeros(1, channels, height, width, device=next(network.parameters()).device)
    macs, parameters = tp.utils.count_ops_and_params(network, image)
    return int(macs), int(parameters)
