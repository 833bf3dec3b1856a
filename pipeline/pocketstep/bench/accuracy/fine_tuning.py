"""The whole network, trained on by PyTorch from images: what a device without frozen layers or programs would do."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from pocketstep.bench.accuracy.base import MEAN, STD, architecture
from pocketstep.bench.accuracy.incremental import Result
from pocketstep.bench.accuracy.material import Material
from pocketstep.bench.accuracy.stream import Course, first_classes, per_class
from pocketstep.data import Dataset
from pocketstep.networks import ResidualNet
from pocketstep.parallel import best_device
from pocketstep.rivals import SoftLogits
from pocketstep.training import evaluate, fit

FINE_TUNING = "full-fine-tuning"
EPOCHS, RATE, TEMPERATURE = 4, 0.01, 2.0


def fine_tuned(material: Material, seen: list[int], tell: Callable[[str], None]) -> Result:
    """Each experience: every layer, ``EPOCHS`` passes over its images and the settings' exemplars of every known class.

    With distillation from the network before, its share that of the known classes (BiC, Wu et al. 2019). A
    new class's exemplars are chosen at random when it has been learned. Kept are exemplars as uint8 images.
    """
    net, title = material.base(), "full fine-tuning, PyTorch"
    exemplars = first_classes(material.train, seen[0]).per_class(material.settings.replay_per_class, 0)
    result = Result(FINE_TUNING, title, Course([_accuracies(net, material.test, seen[0])]))
    for known, after in itertools.pairwise(seen):
        both = _with_new(exemplars, material.train, range(known, after))
        start = time.perf_counter()
        before, net = net, _with_classes(net, material.settings.network, after)
        fit(
            net.to(best_device()), both, epochs=EPOCHS, batch=128, learning_rate=RATE, seed=material.settings.seed,
            mean=MEAN, std=STD, augment=True, shift=4, mirror=True, schedule="one-cycle", precision="bfloat16",
            loss=SoftLogits(before.to(best_device()), TEMPERATURE, known / after),
        )  # fmt: skip
        result.seconds.append(time.perf_counter() - start)
        net = net.eval().cpu()
        exemplars = both.per_class(material.settings.replay_per_class, 0)
        result.course.rows.append(_accuracies(net, material.test, after))
        result.bytes = exemplars.images.nbytes
        tell(f"{title}: {result.course.curve[-1]:.1%} of {after} classes")
    return result


def _with_new(exemplars: Dataset, data: Dataset, labels: range) -> Dataset:
    rows = np.isin(data.labels, labels)
    images = np.concatenate([exemplars.images, data.images[rows]])
    return Dataset(images, np.concatenate([exemplars.labels, data.labels[rows]]), data.classes[: labels.stop])


def _with_classes(net: ResidualNet, network: str, classes: int) -> ResidualNet:
    """A copy with a head for more classes; rows of new ones are zero."""
    grown = ResidualNet.from_architecture(architecture(network, classes))
    rows = classes - net.head.out_features
    weights = net.state_dict()
    for name in ("head.weight", "head.bias"):
        value = weights[name]
        weights[name] = torch.cat([value, value.new_zeros(rows, *value.shape[1:])])
    grown.load_state_dict(weights)
    return grown


def _accuracies(net: nn.Module, test: Dataset, known: int) -> npt.NDArray[np.float64]:
    judged = first_classes(test, known)
    return per_class(evaluate(net, judged, MEAN, STD).argmax(1), judged.labels, known)
