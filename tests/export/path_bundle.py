"""Bundles of decoupled networks on the digits: the whole one, and one of a device that carries three paths."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from pocketstep.assemble import build_bundle
from pocketstep.blueprint import request_of
from pocketstep.data import Dataset, normalisation
from pocketstep.decouple.finetune import fine_tune
from pocketstep.decouple.paths import choose_paths, parse_setting
from pocketstep.decouple.region import find_region
from pocketstep.decouple.scores import score_filters
from pocketstep.decouple.specialise import specialise
from pocketstep.decouple.surgery import decouple, need_decoupling
from pocketstep.export.run import Exporters
from pocketstep.recipe import load_recipe
from pocketstep.stages import load_material, new_teacher, train
from pocketstep.training import prepare

CLASSES, CARRIED, SPARE = 9, ("3", "5", "8"), 2


def decoupled_digits(epochs: int = 3) -> tuple[Any, Any, Any]:
    """(recipe, material, a decoupled network of nine digits with spare paths)."""
    recipe = load_recipe("digits-paths")
    assert recipe.decouple
    recipe = replace(
        recipe,
        teacher=replace(recipe.teacher, epochs=epochs, widths=(8, 16, 32)),
        decouple=replace(recipe.decouple, epochs=epochs, setting="2_13%", spare_paths=SPARE),
        plan=replace(recipe.plan, spare_classes=SPARE),
        replay=replace(recipe.replay, per_class=10),
    )
    material = load_material(recipe)
    base = new_teacher(recipe, material.cloud)
    train(recipe.teacher, recipe, base, material.cloud, "teacher")
    assert recipe.decouple
    layers, share = parse_setting(recipe.decouple.setting)
    mean, std = normalisation(material.cloud)
    few = material.cloud.per_class(10)
    region = find_region(base, layers, prepare(few.images[:1], mean, std))
    paths = choose_paths(region, score_filters(region, few, lambda images: prepare(images, mean, std)), share)
    network = decouple(base, region, paths, material.cloud.classes, spare=SPARE)
    fine_tune(network, material.cloud, recipe.decouple, recipe)
    return recipe, material, network


def write(network: Any, recipe: Any, data: Dataset, held: Dataset, like: Dataset, target: Path, *runtimes: str) -> Path:
    """A bundle of a decoupled network; images are normalised as those of ``like``."""
    request = request_of(recipe, data, need_decoupling(network))
    mean, std = normalisation(like)
    request = replace(request, mean=mean, std=std, directions=8)  # few: each is a sweep to export
    with Exporters(list(runtimes)) as exporters:
        return build_bundle(network, network, request, data, held, target, exporters, lambda stage: None).path


def both(folder: Path, *runtimes: str) -> tuple[Path, Path, Any]:
    """(whole bundle, the carried paths' bundle, material)."""
    recipe, material, network = decoupled_digits()
    whole = write(network, recipe, material.cloud, material.held_back, material.cloud, folder / "whole", *runtimes)
    names = list(CARRIED)
    part = write(
        specialise(network, names, spare=SPARE), recipe, material.cloud.select(names), material.held_back.select(names),
        material.cloud, folder / "part", *runtimes,
    )  # fmt: skip
    return whole, part, material
