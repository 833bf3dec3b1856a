"""Recipes: TOML files that say everything a bundle is made from, read strictly."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, cast, get_type_hints

import tomllib

from pocketstep.plan import PRESETS
from pocketstep_device.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True)
class DataRecipe:
    """Which images, and how many classes the cloud knows; the rest are for devices.

    ``held_back`` is the share of the cloud's images that no training sees: on the device they judge updates.
    """

    name: str
    size: int
    cloud_classes: int
    held_back: float
    seed: int


@dataclass(frozen=True)
class TeacherRecipe:
    """The teacher's architecture and training."""

    widths: tuple[int, ...]
    blocks: int
    epochs: int
    batch: int
    learning_rate: float
    augment: bool
    seed: int


@dataclass(frozen=True)
class CompressRecipe:
    """Shallow and thin (Zhao et al. section 3)."""

    shallow: bool
    threshold: float
    images_per_class: int
    round_to: int
    min_width: int


@dataclass(frozen=True)
class TransferRecipe:
    """Knowledge transfer (Zhao et al. section 4.1)."""

    epochs: int
    batch: int
    learning_rate: float
    weights: tuple[float, ...]
    augment: bool
    seed: int


@dataclass(frozen=True)
class PlanRecipe:
    """Roles, cut, room for new classes, and the batch that the programs are made for."""

    preset: str
    cut: str
    spare_classes: int
    pooled_cells: int
    batch: int


@dataclass(frozen=True)
class ReplayRecipe:
    """How many of the training images of each class go along as latents."""

    per_class: int


@dataclass(frozen=True)
class Recipe:
    """All of it; ``threads`` is what training uses (0: all cores)."""

    name: str
    threads: int
    data: DataRecipe
    teacher: TeacherRecipe
    compress: CompressRecipe
    transfer: TransferRecipe
    plan: PlanRecipe
    replay: ReplayRecipe


def load_recipe(path: str | Path) -> Recipe:
    """Reads a recipe: a file, or the name of one that comes with pocketstep (``digits``).

    Raises:
        InputError: no such recipe, no TOML, or a missing, unknown or mistyped key.
    """
    file = Path(path) if Path(path).suffix == ".toml" else _bundled(str(path))
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"there is no recipe {path}; give a .toml file, or 'digits'") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path} is no readable TOML file: {error}") from None
    recipe = parse(Recipe, {"name": file.stem, **content}, "")
    _check_ranges(recipe)
    return recipe


def _check_ranges(recipe: Recipe) -> None:
    """What would otherwise fail minutes later."""
    bounds = {
        "threads": (recipe.threads, 0, 1024),
        "data.cloud_classes": (recipe.data.cloud_classes, 2, 100_000),
        "compress.threshold": (recipe.compress.threshold, 0.5, 1.0),
        "plan.spare_classes": (recipe.plan.spare_classes, 1, 10_000),
        "teacher.epochs": (recipe.teacher.epochs, 1, 100_000),
        "transfer.epochs": (recipe.transfer.epochs, 1, 100_000),
        "plan.pooled_cells": (recipe.plan.pooled_cells, 1, 64),
        "plan.batch": (recipe.plan.batch, 1, 4096),
        "replay.per_class": (recipe.replay.per_class, 2, 100_000),
        "data.held_back": (recipe.data.held_back, 0.01, 0.9),
    }
    for name, (value, low, high) in bounds.items():
        if not low <= value <= high:
            raise InputError(f"the recipe's {name} is {value}; it must lie between {low} and {high}")
    if len(recipe.transfer.weights) != 3:
        raise InputError("the recipe's transfer.weights must be three numbers: logits, mapped blocks, labels")
    if recipe.plan.preset not in PRESETS:
        raise InputError(f"the recipe's plan.preset is '{recipe.plan.preset}'; choose one of {', '.join(PRESETS)}")


def _bundled(name: str) -> Path:
    inside = Path(str(resources.files("pocketstep"))) / "models" / f"{name}.toml"
    return inside if inside.exists() else Path(__file__).parents[2] / "models" / f"{name}.toml"


def parse(kind: type[T], values: Any, where: str) -> T:
    """A table as a dataclass whose fields are its keys; names what is missing, unknown or mistyped."""
    hints, names = get_type_hints(kind), {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if not isinstance(values, dict):
        raise InputError(f"the recipe's '{where or 'top level'}' must be a table")
    unknown, missing = sorted(set(values) - names), sorted(names - set(values))
    if unknown or missing:
        problem = f"unknown key '{unknown[0]}'" if unknown else f"missing key '{missing[0]}'"
        raise InputError(f"the recipe has an {problem} in [{where or 'top level'}]".replace("an missing", "a missing"))
    parsed = {name: _convert(hints[name], values[name], f"{where}.{name}".strip(".")) for name in names}
    return kind(**parsed)


def _convert(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return parse(cast(type[Any], kind), value, where)
    if kind in (str, bool, int) and type(value) is kind:
        return value
    if kind is float and type(value) in (int, float):
        return float(value)
    if getattr(kind, "__origin__", None) is tuple and isinstance(value, list):
        return tuple(_convert(kind.__args__[0], item, where) for item in value)
    raise InputError(f"the recipe's {where} is {value!r}; it must be {getattr(kind, '__name__', kind)}")
