"""Bundles of decoupled networks on the digits: the whole one, and one of a device that carries three paths."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from pocketstep.assemble import build_bundle
from pocketstep.blueprint import request_of
from pocketstep.build import carried_bundle
from pocketstep.data import normalisation
from pocketstep.decouple.finetune import fine_tune
from pocketstep.decouple.paths import choose_paths, parse_setting
from pocketstep.decouple.region import find_region
from pocketstep.decouple.scores import score_filters
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
        plan=replace(recipe.plan, spare_classes=SPARE, directions=8),  # few: each is a sweep to export
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


def both(folder: Path, *runtimes: str) -> tuple[Path, Path, Any]:
    """(whole bundle, the carried paths' bundle, material)."""
    recipe, material, network = decoupled_digits()
    request = request_of(recipe, material.cloud, need_decoupling(network))
    with Exporters(list(runtimes)) as exporters:
        whole = build_bundle(
            network, network, request, material.cloud, material.held_back, folder / "whole", exporters, print
        ).path
    with Exporters(list(runtimes)) as exporters:
        part = carried_bundle(recipe, material, network, CARRIED, folder / "part", exporters, print).path
    return whole, part, material
