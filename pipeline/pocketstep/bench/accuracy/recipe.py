"""What ``bench accuracy`` reads: a TOML file of its own, as strict as a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pocketstep.bench.accuracy.base import NETWORKS, Beside, Teacher
from pocketstep.bench.accuracy.material import CUTS, Settings
from pocketstep.bench.accuracy.run import Order, check
from pocketstep.bench.accuracy.stream import Protocol
from pocketstep.camera import CAMERAS
from pocketstep.data import Dataset, load_cifar
from pocketstep.recipe_checks import between
from pocketstep.toml_tables import parse, read
from pocketstep_device.errors import InputError


@dataclass(frozen=True)
class BaseTable:
    """The base: see ``Settings``; ``beside`` names other images that it learns, so many of each class.

    ``teacher`` names the network whose features it imitates, which learns so many epochs before. With ``small_first``
    both see smaller images first.
    """

    network: str
    classes: int
    epochs: int
    rotations: bool
    smoothing: float
    beside: str = ""
    beside_per_class: int = 2500
    teacher: str = ""
    teacher_epochs: int = 40
    small_first: bool = False


@dataclass(frozen=True)
class StreamTable:
    """Class increments: experiences after the base, methods, seeds, and what a device keeps.

    ``test_per_class`` is 0 for all test images; ``replay_per_class`` counts the cloud's images that go along; with
    ``mirrored`` devices look at mirror images, too; ``batch`` is that of the bundles' programs: smaller ones take less
    memory.
    """

    steps: int
    methods: tuple[str, ...]
    seeds: int
    test_per_class: int
    cut: str
    replay_per_class: int
    store_mb: float
    mirrored: bool = False
    batch: int = 64


@dataclass(frozen=True)
class ShiftTable:
    """Other cameras: names, cuts, variants of the plan, labelled images of each class, and an update's budget."""

    cameras: tuple[str, ...]
    cuts: tuple[str, ...]
    variants: tuple[str, ...]
    shown: int
    test_per_class: int
    seconds: float


@dataclass(frozen=True)
class AccuracyRecipe:
    """All of it. ``data`` is ``cifar100``, in the folder that the command is given."""

    data: str
    base: BaseTable
    stream: StreamTable
    shift: ShiftTable

    def settings(self, folder: Path, seed: int = 0) -> Settings:
        """Of the base and the bundles; ``folder`` is where the images are."""
        base, stream = self.base, self.stream
        beside = Beside("cifar10", base.beside_per_class, folder) if base.beside else None
        teacher = Teacher(base.teacher, base.teacher_epochs) if base.teacher else None
        return Settings(
            base.classes, base.epochs, base.rotations, base.smoothing, stream.cut, stream.replay_per_class, seed,
            base.network, stream.mirrored, beside, teacher, stream.batch, base.small_first,
        )  # fmt: skip

    def order(self, folder: Path, runtime: str, threads: int) -> Order:
        """What the stream's part asks for."""
        stream = self.stream
        return Order(
            Protocol(self.base.classes, stream.steps), self.settings(folder), stream.methods, stream.seeds,
            stream.test_per_class or None, stream.store_mb, runtime, threads,
        )  # fmt: skip

    def images(self, folder: Path) -> tuple[Dataset, Dataset]:
        """Training and test images from the standard binary version.

        Raises:
            InputError: they are not there, or damaged.
        """
        return load_cifar(folder, "cifar100", "train"), load_cifar(folder, "cifar100", "test")


def load(path: str) -> AccuracyRecipe:
    """Reads the file, or one that comes with pocketstep by its name (``cifar100-b50``).

    Raises:
        InputError: no such file, no TOML, a key that is missing, unknown or mistyped, or a value out of range.
    """
    recipe = parse(AccuracyRecipe, read(path, "cifar100-b50")[1], "")
    _check(recipe)
    return recipe


def _check(recipe: AccuracyRecipe) -> None:
    check(recipe.stream.methods)
    chosen = {"data": ((recipe.data,), ("cifar100",)), "base.network": ((recipe.base.network,), tuple(NETWORKS)),
              "base.beside": ((recipe.base.beside,), ("", "cifar10")),
              "base.teacher": ((recipe.base.teacher,), ("", *NETWORKS)),
              "stream.cut": ((recipe.stream.cut,), tuple(CUTS)),
              "shift.cameras": (recipe.shift.cameras, tuple(CAMERAS)), "shift.cuts": (recipe.shift.cuts, tuple(CUTS)),
              "shift.variants": (recipe.shift.variants, ("centre", "full"))}  # fmt: skip
    for where, (values, known) in chosen.items():
        for value in values:
            if value not in known:
                raise InputError(f"the recipe's {where} has '{value}'; choose of {', '.join(known)}")
    bounds = {
        "base.epochs": (recipe.base.epochs, 1, 10_000), "base.teacher_epochs": (recipe.base.teacher_epochs, 1, 10_000),
        "base.smoothing": (recipe.base.smoothing, 0, 0.9),
        "base.beside_per_class": (recipe.base.beside_per_class, 1, 5000),
        "stream.seeds": (recipe.stream.seeds, 1, 100), "stream.store_mb": (recipe.stream.store_mb, 0.1, 65536),
        "stream.test_per_class": (recipe.stream.test_per_class, 0, 100_000),
        "stream.replay_per_class": (recipe.stream.replay_per_class, 1, 100_000),
        "stream.batch": (recipe.stream.batch, 1, 1024),
        "shift.shown": (recipe.shift.shown, 1, 100_000),
        "shift.seconds": (recipe.shift.seconds, 1, 1_000_000),
        "shift.test_per_class": (recipe.shift.test_per_class, 0, 100_000),
    }  # fmt: skip
    for where, (number, low, high) in bounds.items():
        between(where, number, low, high)
