"""What a recipe's values must be: checked before work begins that would fail minutes or hours later."""

from __future__ import annotations

from collections.abc import Sequence

from pocketstep.criteria import IMPORTANCES
from pocketstep.decouple.paths import parse_setting
from pocketstep.federate.methods import METHODS as METHODS_OF_FLEETS
from pocketstep.parallel import PRECISIONS
from pocketstep.plan import PRESETS
from pocketstep.recipe import (
    DecoupleRecipe,
    FleetRecipe,
    MeasuresRecipe,
    Recipe,
    StudyRecipe,
    TrainingRecipe,
    TransferRecipe,
)
from pocketstep.request import MOST_EXPANSION, check_directions
from pocketstep.schedules import schedules
from pocketstep.sources import NAMES
from pocketstep_device.errors import InputError

METHODS = ("blocks", "features", "hinton", "fitnet", "none")
_THRESHOLD = (0.5, 1.0)


def check_recipe(recipe: Recipe) -> None:
    """Checks ranges and names.

    Raises:
        InputError: a value is out of its range, or a name unknown.
    """
    data, part = recipe.data, recipe.compress
    between("threads", recipe.threads, 0, 1024)
    between("data.cloud_classes", data.cloud_classes, 2, 100_000)
    between("data.held_back", data.held_back, 0.01, 0.9)
    between("data.size", data.size, 0, 4096)
    between("data.cloud_images", data.cloud_images, 0, 10_000_000)
    _among("data.name", data.name, NAMES)
    between("compress.threshold", part.threshold, *_THRESHOLD)
    between("compress.pruning_ratio", part.pruning_ratio, 0.0, 0.99)
    between("compress.images_per_class", part.images_per_class, 1, 10_000)
    between("compress.min_width", part.min_width, 1, 10_000)
    between("compress.round_to", part.round_to, 1, 1024)
    _among("compress.importance", part.importance, IMPORTANCES)
    _check_training("teacher", recipe.teacher)
    if bool(recipe.teacher.network) == bool(recipe.teacher.widths):
        raise InputError("the recipe's teacher needs either a network (such as 'wrn-16-4') or widths and blocks")
    _check_transfer("transfer", recipe.transfer)
    between("plan.spare_classes", recipe.plan.spare_classes, 1, 10_000)
    between("plan.pooled_cells", recipe.plan.pooled_cells, 1, 64)
    between("plan.expansion", recipe.plan.expansion, 0, MOST_EXPANSION)
    check_directions(recipe.plan.directions, recipe.plan.expansion)
    between("plan.batch", recipe.plan.batch, 1, 4096)
    _among("plan.preset", recipe.plan.preset, PRESETS)
    between("replay.per_class", recipe.replay.per_class, 2, 100_000)
    if recipe.study:
        _check_study(recipe.study)
    if recipe.decouple:
        _check_decouple(recipe.decouple)
    if recipe.fleet:
        _check_fleet(recipe.fleet)
    if recipe.measures:
        _check_measures(recipe.measures)


def _check_training(name: str, part: TrainingRecipe) -> None:
    between(f"{name}.epochs", part.epochs, 1, 100_000)
    between(f"{name}.batch", part.batch, 1, 1_000_000)
    between(f"{name}.learning_rate", part.learning_rate, 1e-9, 1000.0)
    between(f"{name}.shift", part.shift, 0, 1024)
    between(f"{name}.cutout", part.cutout, 0, 1024)
    _among(f"{name}.schedule", part.schedule, ("cosine", "one-cycle"))
    _among(f"{name}.precision", part.precision, PRECISIONS)


def _check_transfer(name: str, part: TransferRecipe) -> None:
    _check_training(name, part)
    if len(part.weights) != 3:
        raise InputError(f"the recipe's {name}.weights must be three numbers: logits, mapped blocks, labels")
    _among(f"{name}.method", part.method, METHODS)
    _among(f"{name}.trainable", part.trainable, ("all", "last"))
    between(f"{name}.temperature", part.temperature, 0.1, 100.0)
    if part.mix and (part.method != "blocks" or part.weights[2] or not part.augment):
        raise InputError(
            f"the recipe's {name}.mix makes images without labels: it wants method 'blocks', augment, and 0 as the "
            "third of the weights"
        )


def _check_decouple(part: DecoupleRecipe) -> None:
    _check_training("decouple", part)
    parse_setting(part.setting)
    between("decouple.images_per_class", part.images_per_class, 1, 100_000)
    between("decouple.spare_paths", part.spare_paths, 0, 10_000)
    _among("decouple.base", part.base, ("teacher", "student"))


def _check_fleet(part: FleetRecipe) -> None:
    between("fleet.clients", part.clients, 1, 1_000_000)
    between("fleet.rounds", part.rounds, 1, 100_000)
    between("fleet.share", part.share, 1e-6, 1.0)
    between("fleet.classes_per_client", part.classes_per_client, 1, 10_000)
    between("fleet.images_per_client", part.images_per_client, 1, 1_000_000)
    between("fleet.noise", part.noise, 0.0, 1e6)
    between("fleet.norm", part.norm, 1e-9, 1e9)
    _among("fleet.method", part.method, METHODS_OF_FLEETS)


def _check_measures(part: MeasuresRecipe) -> None:
    for method in part.baselines:
        _among("measures.baselines", method, METHODS_OF_FLEETS)
    if growth := part.growth:
        _among("measures.growth.base", growth.base, NAMES)
        for count in growth.base_classes:
            between("measures.growth.base_classes", count, 2, 100_000)
        between("measures.growth.epochs", growth.epochs, 1, 100_000)
        between("measures.growth.added", growth.added, 1, 10_000)
        between("measures.growth.images", growth.images, 2, 1_000_000)
        between("measures.growth.test_images", growth.test_images, 1, 1_000_000)
        for method in growth.methods:
            _among("measures.growth.methods", method, tuple(schedules()))


def _check_study(study: StudyRecipe) -> None:
    for name in ("thresholds", "criteria_at", "methods_at"):
        values = getattr(study, name)
        for value in values if isinstance(values, tuple) else (values,):
            between(f"study.{name}", value, *_THRESHOLD)
    for value in study.criteria:
        _among("study.criteria", value, IMPORTANCES[1:])
    for value in study.methods:
        _among("study.methods", value, (*METHODS[1:], "scratch"))
    for share in study.short:
        between("study.short", share, 0.001, 1.0)
    for times in study.longer:
        between("study.longer", times, 2, 1000)
    between("study.watch_every", study.watch_every, 1, 1_000_000)
    if not {*study.criteria_at, study.methods_at} <= {*study.thresholds}:
        raise InputError("the recipe's study.criteria_at and study.methods_at must be among study.thresholds")
    if study.increment:
        _check_transfer("study.increment", study.increment)
    if study.unseen:
        _check_transfer("study.unseen", study.unseen)
        for value in study.unseen.thresholds:
            between("study.unseen.thresholds", value, *_THRESHOLD)


def between(name: str, value: float, low: float, high: float) -> None:
    """Raises InputError unless a recipe's value lies within its range."""
    if not low <= value <= high:
        raise InputError(f"the recipe's {name} is {value}; it must lie between {low} and {high}")


def _among(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise InputError(f"the recipe's {name} is '{value}'; choose one of {', '.join(known)}")
