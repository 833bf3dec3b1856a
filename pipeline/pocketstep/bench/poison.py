"""What bad observations do to a device: label noise, lies, duplicates, images that are none, a flood of one class.

Every row begins with a fresh state of the digits' bundle, observes, updates, and is measured on test images that no
device saw. The device's own check sees held-back samples only, the bad ones among them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pocketstep.data import Dataset, load_digits
from pocketstep_device import Budget, Learner
from pocketstep_device.errors import InputError

NEW, COUNT, DUPLICATES, FLOOD = "9", 60, 500, 2000
SMALL_STORE_MB = 0.75
"""Room for some 180 latents of the digits' student."""

Images = npt.NDArray[np.uint8]
Poison = Callable[["Scene"], None]


@dataclass
class Scene:
    """One learner, and the images of every class that it may meet."""

    learner: Learner
    images: dict[str, Images]
    chance: np.random.Generator
    refused: str = ""

    def take(self, name: str, count: int) -> Images:
        """Images of a class, again from the beginning when they end."""
        own = self.images[name]
        return own[np.arange(count) % len(own)]

    def observe(self, images: Any, label: str) -> None:
        """What a device that is told so would do; a refusal is remembered."""
        try:
            self.learner.observe(images, label)
        except InputError as error:
            self.refused = str(error)


def noise(share: float) -> Poison:
    """A share of what is called new is of other classes."""

    def poison(scene: Scene) -> None:
        wrong = round(share * COUNT)
        scene.observe(scene.take(NEW, COUNT)[wrong:], NEW)
        others = [name for name in scene.images if name != NEW]
        for name, count in zip(others, np.bincount(np.arange(wrong) % len(others), minlength=len(others)), strict=True):
            if count:
                scene.observe(scene.take(name, count), NEW)

    return poison


def lie(scene: Scene) -> None:
    """Another class is called new."""
    scene.observe(scene.take("0", COUNT), NEW)


def swap(scene: Scene) -> None:
    """Two known classes are called by each other's names."""
    scene.observe(scene.take("8", COUNT), "3")
    scene.observe(scene.take("3", COUNT), "8")


def duplicates(scene: Scene) -> None:
    """One image of a known class, many times, under the new name, beside honest ones."""
    scene.observe(scene.take(NEW, COUNT), NEW)
    scene.observe(np.repeat(scene.take("4", 1), DUPLICATES, 0), NEW)


def near_duplicates(scene: Scene) -> None:
    """The same, each with a little noise, so that no two are equal."""
    scene.observe(scene.take(NEW, COUNT), NEW)
    scene.observe(_varied(np.repeat(scene.take("4", 1), DUPLICATES, 0), 12, scene.chance), NEW)


def not_numbers(scene: Scene) -> None:
    """Images of NaN beside honest ones."""
    scene.observe(np.full((COUNT, *scene.images[NEW].shape[1:]), np.nan), NEW)
    scene.observe(scene.take(NEW, COUNT), NEW)


def flood(scene: Scene) -> None:
    """So many images of one class that the store is full of them; some of each other class were there before."""
    for name in list(scene.images)[:-1]:
        scene.observe(scene.take(name, 10), name)
    for _ in range(4):
        scene.observe(_varied(scene.take(NEW, FLOOD // 4), 8, scene.chance), NEW)


SCENARIOS: dict[str, tuple[Poison, float]] = {
    "honest": (noise(0.0), 64.0),
    "label noise 10 %": (noise(0.1), 64.0),
    "label noise 30 %": (noise(0.3), 64.0),
    "label noise 60 %": (noise(0.6), 64.0),
    "another class called new": (lie, 64.0),
    "two classes called by each other's names": (swap, 64.0),
    "one wrong image 500 times": (duplicates, 64.0),
    "the same with noise": (near_duplicates, 64.0),
    "images of NaN": (not_numbers, 64.0),
    "2000 images of one class in a small store": (flood, SMALL_STORE_MB),
}
"""What is done, and the store's limit in MiB."""


def measure(bundle: Path, runtime: str, method: str, on_stage: Callable[[str], None]) -> dict[str, Any]:
    """Runs every scenario.

    Args:
        bundle: of the digits without the nine, as ``pocketstep demo`` or the recipe ``digits`` makes it.
        runtime: where it runs.
        method: of the updates.
        on_stage: told what is being done.

    Returns:
        ``rows``: for each scenario ``stored`` samples, ``accepted``, ``chosen`` phase, the check's ``reason``, test
        accuracies ``old_before``, ``old`` and ``new`` (0 to 1, means per class), ``least_share`` (samples of the class
        that has least, of those observed), ``refused`` (an error of ``observe``).

    Raises:
        InputError: the bundle is of another task.
    """
    train, test = load_digits(_side(bundle))
    rows = [_row(bundle, runtime, method, train, test, name, on_stage) for name in SCENARIOS]
    return {"bundle": str(bundle), "runtime": runtime, "method": method, "rows": rows}


def _row(
    bundle: Path, runtime: str, method: str, train: Dataset, test: Dataset, name: str, on_stage: Callable[[str], None]
) -> dict[str, Any]:
    on_stage(name)
    poison, store_mb = SCENARIOS[name]
    with (
        tempfile.TemporaryDirectory() as state,
        Learner.open(bundle, state, runtime, store_mb=store_mb) as learner,
    ):
        learner.add_class(NEW)
        before = dict(_accuracies(learner, test))
        scene = Scene(learner, _by_class(train), np.random.default_rng(0))
        poison(scene)
        stored = learner.status()["stored_samples"]
        report = learner.update(Budget(), method=method)
        after = dict(_accuracies(learner, test))
    known = [c for c in after if c != NEW]
    observed = [count for count in stored.values() if count]
    return {
        "scenario": name,
        "stored": sum(stored.values()),
        "least_share": min(observed),
        "accepted": report.accepted,
        "chosen": report.chosen,
        "reason": report.reason,
        "old_before": float(np.mean([before[c] for c in known])),
        "old": float(np.mean([after[c] for c in known])),
        "new": after[NEW],
        "refused": scene.refused,
    }


def _side(bundle: Path) -> int:
    from pocketstep_device.bundle import Bundle

    task = Bundle.open(bundle).manifest.task
    if list(task.classes) != [str(c) for c in range(9)] or task.input.shape[2] != 1:
        raise InputError(f"{bundle} is no bundle of the digits 0 to 8; make one with 'pocketstep demo'")
    return task.input.shape[0]


def _by_class(data: Dataset) -> dict[str, Images]:
    return {name: data.images[data.labels == label] for label, name in enumerate(data.classes)}


def _accuracies(learner: Learner, test: Dataset) -> Iterator[tuple[str, float]]:
    for name, images in _by_class(test).items():
        yield name, float(np.mean([label == name for label in learner.classify(images).labels]))


def _varied(images: Images, most: int, chance: np.random.Generator) -> Images:
    changed = images.astype(np.int16) + chance.integers(-most, most + 1, images.shape)
    varied: Images = np.clip(changed, 0, 255).astype(np.uint8)
    return varied
