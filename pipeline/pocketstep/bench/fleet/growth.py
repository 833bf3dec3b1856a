"""A device that learns one class after the other from its own images, on top of a base of other data (TeAM §3.2)."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from pocketstep.build import Workshop
from pocketstep.data import Dataset
from pocketstep.decouple.stage import need_section
from pocketstep.recipe import GrowthRecipe, Recipe
from pocketstep.sources import load_data
from pocketstep_device import Learner
from pocketstep_device.judge import per_class_mean

if TYPE_CHECKING:
    from pocketstep.bench.fleet.study import FleetStudy, Row


def growth_rows(study: FleetStudy, part: GrowthRecipe) -> list[Row]:
    """A row for each number of base classes and each method: accuracies after each class."""
    return [_grown(study, part, count, method) for count in part.base_classes for method in part.methods]


def base_recipe(recipe: Recipe, part: GrowthRecipe, count: int) -> Recipe:
    """The study's network on ``count`` classes of the base's data, with a spare path for each class to come.

    The paths are fine-tuned in a quarter of the network's epochs.
    """
    decouple = replace(need_section(recipe), spare_paths=part.added, epochs=max(1, part.epochs // 4))
    return replace(
        recipe, data=replace(recipe.data, name=part.base, cloud_classes=count, cloud_images=0), fleet=None,
        teacher=replace(recipe.teacher, epochs=part.epochs), decouple=decouple,
        plan=replace(recipe.plan, spare_classes=part.added),
    )  # fmt: skip


def _grown(study: FleetStudy, part: GrowthRecipe, count: int, method: str) -> Row:
    from pocketstep.bench.fleet.study import RUNTIME, kept_bundle

    alone = replace(part, base_classes=(count,), methods=())  # one row does not depend on the others

    def measure() -> Row:
        home = study.out / f"base{count}"
        workshop = Workshop(base_recipe(study.recipe, part, count), home, study.data)
        study.console.stage(f"{count} classes of {part.base}, then {part.added}: {method}")
        bundle = kept_bundle(
            workshop, home / "first.bundle", study.digest(study.recipe.plan, study.recipe.replay, alone), study
        )
        old = workshop.material.cloud_test.per_class(part.test_images, study.recipe.data.seed)
        name = study.recipe.data.name
        train, test = load_data(name, study.data or study.recipe.data.folder, seed=study.recipe.data.seed)
        new = [label for label in train.classes if label not in old.classes][: part.added]
        shown = train.select(new).per_class(part.images, study.recipe.data.seed)
        judged = test.select(new).per_class(part.test_images, study.recipe.data.seed)
        state = home / f"state-{method}"
        shutil.rmtree(state, ignore_errors=True)
        with Learner.open(bundle.path, state, RUNTIME, threads=1) as learner:
            points = [{"class": "", "old": _accuracy(learner, old), "new": None, "accepted": True, "seconds": 0.0}]
            for number, label in enumerate(new):
                learner.add_class(label)
                learner.observe(shown.images[shown.labels == number], label)
                report = learner.update(method=method)
                known = judged.select(new[: number + 1])
                points.append(
                    {
                        "class": label, "old": _accuracy(learner, old), "new": _accuracy(learner, known),
                        "accepted": report.accepted, "seconds": report.seconds, "chosen": report.chosen,
                    }
                )  # fmt: skip
        shutil.rmtree(state)
        return {"base": part.base, "base_classes": count, "method": method, "points": points}

    return study.row(f"growth-{count}-{method}", measure, study.recipe.plan, study.recipe.replay, alone)


def _accuracy(learner: Learner, data: Dataset) -> float:
    """Mean per class (0 to 1) over all classes that the device knows to choose among."""
    found = np.array(learner.classify(data.images).labels)
    return per_class_mean(found == np.array(data.classes)[data.labels], data.labels)
