"""The base model of a stream: the network that every method starts from, trained once and kept."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from pocketstep.bench.accuracy.preparing import TURNS, Turned, smoothed
from pocketstep.data import Dataset, load_cifar
from pocketstep.features import FeatureTransfer
from pocketstep.loop import Loss
from pocketstep.networks import Architecture, BlockShape, ResidualNet
from pocketstep.parallel import best_device
from pocketstep.training import fit
from pocketstep.weights import load_network, save_network
from pocketstep_device.errors import InputError

MEAN, STD = (0.507, 0.487, 0.441), (0.267, 0.256, 0.276)
"""CIFAR-100's."""

Shape = tuple[int, int, int]
NETWORKS: dict[str, tuple[int, tuple[Shape, ...]]] = {
    "small": (1, ((32, 32, 1), (32, 64, 2), (64, 128, 2), (128, 256, 1))),
    "resnet18": (2, ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2))),
}
"""Blocks of each of the four groups; inputs, outputs and stride of its first one. On 32x32 images: 1.2 M parameters and
107 M multiply-adds; ResNet-18 in its CIFAR form, as in the papers, 11 M and 556 M."""


@dataclass(frozen=True)
class Beside:
    """Other images that the cloud has: features that tell their classes apart, too, say more about classes to come.

    Attributes:
        name: of the data set, ``cifar10`` or ``cifar100``.
        per_class: images of each class; what a stream learns must not be among its classes.
        folder: where its binary version is.
    """

    name: Literal["cifar10", "cifar100"]
    per_class: int
    folder: Path

    def added_to(self, data: Dataset) -> Dataset:
        """The images of both, the other classes behind."""
        others = load_cifar(self.folder, self.name, "train").per_class(self.per_class, 0)
        return Dataset(
            np.concatenate([data.images, others.images]),
            np.concatenate([data.labels, others.labels + len(data.classes)]),
            (*data.classes, *(f"{name} of {self.name}" for name in others.classes)),
        )


@dataclass(frozen=True)
class Teacher:
    """A larger network that learns what the base shall learn, so that the base can imitate its features.

    Attributes:
        network: a key of ``NETWORKS``.
        epochs: passes.
    """

    network: str
    epochs: int


def base_network(
    data: Dataset, path: Path, *, network: str, epochs: int, seed: int, rotations: bool, smoothing: float,
    tell: Callable[[str], None], beside: Beside | None = None, teacher: Teacher | None = None,
    small_first: bool = False,
) -> ResidualNet:  # fmt: skip
    """Trains the base on the stream's first classes, or reads what an earlier run wrote.

    Args:
        data: their training images, 32x32 RGB.
        path: of its file.
        network: a key of ``NETWORKS``.
        epochs: passes; one-cycle rate, bfloat16, crops and flips.
        seed: of weights, order and augmentation.
        rotations: whether it learns rotation labels, see ``Turned``; without label smoothing.
        smoothing: of labels where it does not.
        tell: progress.
        beside: images that it learns, too, and whose classes its head does not keep.
        teacher: whose features it imitates; trained first, on the same images.
        small_first: whether it, and its teacher, see smaller images first, see ``sizes.growing``.
    """
    if path.exists():
        kept = load_network(path)
        if not isinstance(kept, ResidualNet):
            raise InputError(f"{path} is no base of this benchmark; remove it to train one")
        return kept
    path.parent.mkdir(parents=True, exist_ok=True)
    known, data = len(data.classes), beside.added_to(data) if beside else data
    classes, device = len(data.classes), best_device()
    rows = classes * TURNS if rotations else classes
    net = ResidualNet.from_architecture(architecture(network, rows), seed=seed).to(device)
    loss: Loss = Turned(classes, 0.0, torch.Generator().manual_seed(seed)) if rotations else smoothed(smoothing)
    with ExitStack() as stack:
        if teacher:
            above = base_network(
                data, path.with_name(f"teacher-{path.name}"), network=teacher.network, epochs=teacher.epochs,
                seed=seed, rotations=False, smoothing=smoothing, tell=lambda text: tell(f"teacher of the {text}"),
                small_first=small_first,
            )  # fmt: skip
            loss = stack.enter_context(
                FeatureTransfer(above.to(device).to(memory_format=torch.channels_last), net, loss)
            )
        fit(
            net, data, epochs=epochs, batch=128, learning_rate=0.25, seed=seed, mean=MEAN, std=STD, augment=True,
            shift=4, mirror=True, schedule="one-cycle", precision="bfloat16", loss=loss,
            small_first=small_first,
            checkpoint=path.with_suffix(".checkpoint"),
            on_progress=lambda p: tell(f"base: epoch {p.epoch} of {p.epochs}, loss {p.loss:.3f}"),
        )  # fmt: skip
    net = net.eval().cpu().to(memory_format=torch.contiguous_format)
    net.head = upright_head(net.head, known)
    save_network(net, path)
    path.with_suffix(".checkpoint").unlink(missing_ok=True)
    return net


def architecture(network: str, classes: int) -> Architecture:
    """Of one of ``NETWORKS``, for RGB images."""
    blocks, shapes = NETWORKS[network]
    groups = tuple(
        (BlockShape(i, o, o, s, i != o or s != 1), *(BlockShape(o, o, o, 1, False) for _ in range(blocks - 1)))
        for i, o, s in shapes
    )
    return Architecture(classes, 3, shapes[0][0], groups)


def upright_head(head: nn.Linear, classes: int) -> nn.Linear:
    """The rows of images that were not turned."""
    kept = nn.Linear(head.in_features, classes)
    with torch.no_grad():
        kept.weight.copy_(head.weight[:classes])
        kept.bias.copy_(head.bias[:classes])
    return kept
