"""Decoupling as a recipe says: score, choose, split, fine-tune, cut out; and what each costs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from pocketstep.data import Dataset, normalisation
from pocketstep.decouple.finetune import fine_tune, one_against_all
from pocketstep.decouple.paths import choose_paths, parse_setting
from pocketstep.decouple.region import find_region
from pocketstep.decouple.scores import score_filters
from pocketstep.decouple.specialise import specialise
from pocketstep.decouple.surgery import decouple, decoupling_of, need_decoupling
from pocketstep.recipe import DecoupleRecipe, Recipe
from pocketstep.stages import Material, Watching, accuracy_of, size_of
from pocketstep.training import accuracy_per_class, evaluate, prepare
from pocketstep_device.errors import InputError

LATENCY_RUNS = 30


@dataclass(frozen=True)
class Decoupled:
    """A decoupled network; and for JSON how it was chosen and what it is worth.

    The report's ``accuracy`` has means per class, 0 to 1: of the ``whole`` network, right after the ``split``, and
    fine-``tuned``.
    """

    network: nn.Module
    report: dict[str, Any]


def decouple_stage(recipe: Recipe, material: Material, base: nn.Module, watching: Watching | None = None) -> Decoupled:
    """Scores the base network's filters on the cloud's images, splits it and fine-tunes the paths.

    Raises:
        InputError: the recipe has no [decouple], or the network cannot be split.
    """
    part = need_section(recipe)
    if decoupling_of(base) is not None:
        raise InputError("this network has paths already: give the network that they were cut from")
    data = material.cloud
    layers, share = parse_setting(part.setting)
    mean, std = normalisation(data)
    few = data.per_class(part.images_per_class, recipe.data.seed)

    def normalised(images: Any) -> torch.Tensor:
        return prepare(images, mean, std, recipe.data.per_image)

    region = find_region(base.cpu().eval(), layers, normalised(data.images[:1]))
    paths = choose_paths(region, score_filters(region, few, normalised), share)
    network = decouple(base, region, paths, data.classes, spare=part.spare_paths, seed=part.seed)
    whole, split = (_accuracy(net, recipe, material) for net in (base, network))
    fine_tune(network, data, part, recipe, watching)
    accuracy = {"whole": whole, "split": split, "tuned": _accuracy(network, recipe, material)}
    facts = {"setting": part.setting, "spare_paths": part.spare_paths, "accuracy": accuracy}
    return Decoupled(network, {**facts, **paths.report(data.classes, region)})


def need_section(recipe: Recipe) -> DecoupleRecipe:
    """The recipe's [decouple].

    Raises:
        InputError: it has none.
    """
    if recipe.decouple is None:
        raise InputError("the recipe has no [decouple]: add one, as in models/cifar10-paths.toml")
    return recipe.decouple


def specialised(
    recipe: Recipe, material: Material, network: nn.Module, classes: Sequence[str], watching: Watching | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """Cuts some classes out of a decoupled network, and compares the two on these classes.

    One class alone is trained to tell itself from all others; more keep the whole network's logits as they are.

    Returns:
        The specialised network; and accuracies (0 to 1): ``per_class_mean``; of some classes what the ``whole_network``
        gets for the same choice among them; of one class ``all_images``, the share of all test images that are told
        right. It was trained as if both sides were equally frequent; for ``all_images``, where they are not, its
        logits are moved by the logarithms of the sides' shares of the cloud's images, as Bayes' rule has it.
    """
    part, names = specialise(network, classes), list(classes)
    test, cloud = material.cloud_test, material.cloud
    if need_decoupling(part).rest:
        task, tested = one_against_all(cloud, names[0]), one_against_all(test, names[0])
        fine_tune(part, task, need_section(recipe), recipe, watching, like=cloud, stage="one-vs-all")
        logits = evaluate(part, tested, *normalisation(cloud), per_image=recipe.data.per_image)
        right = (logits + np.log(np.bincount(task.labels) / len(task))).argmax(1) == tested.labels
        balanced = accuracy_per_class(logits, tested.labels, 2)
        return part, {"per_class_mean": float(balanced.mean()), "all_images": float(right.mean())}
    tested = test.select(names)
    own = float(accuracy_of(part, tested, cloud, recipe).mean())
    return part, {"per_class_mean": own, "whole_network": _restricted(network, tested, cloud, recipe)}


def figures(networks: Mapping[str, nn.Module], data: Dataset) -> dict[str, dict[str, float]]:
    """Parameters, bytes (float32), MACs and milliseconds an image of networks, side by side.

    Milliseconds are medians of single images on one thread of PyTorch, the networks taking turns.
    """
    image = torch.from_numpy(data.images[:1]).permute(0, 3, 1, 2).float() / 255
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    with torch.no_grad():
        for run in range(LATENCY_RUNS + 3):
            for name, network in networks.items():
                began = time.perf_counter()
                network(image)
                if run >= 3:
                    seconds[name].append(time.perf_counter() - began)
    torch.set_num_threads(before)
    found = {}
    for name, network in networks.items():
        macs, parameters = size_of(network, data)
        found[name] = {
            "parameters": parameters, "bytes": 4 * parameters, "macs": macs,
            "milliseconds": 1000 * statistics.median(seconds[name]),
        }  # fmt: skip
    return found


def _accuracy(network: nn.Module, recipe: Recipe, material: Material) -> float:
    return float(accuracy_of(network, material.cloud_test, material.cloud, recipe).mean())


def _restricted(network: nn.Module, tested: Dataset, like: Dataset, recipe: Recipe) -> float:
    """The whole network's accuracy when it may only answer with the classes of ``tested``."""
    columns = [need_decoupling(network).classes.index(name) for name in tested.classes]
    logits = evaluate(network, tested, *normalisation(like), per_image=recipe.data.per_image)[:, columns]
    return float(accuracy_per_class(logits, tested.labels, len(tested.classes)).mean())
