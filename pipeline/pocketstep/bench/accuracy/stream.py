"""A stream of experiences (classes that come together) and what is counted along it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pocketstep.data import Dataset
from pocketstep_device.errors import InputError

CLASS_ORDER_SEED = 1993
"""Of iCaRL's class order, which the field has kept; seeds of a run count on from it."""


@dataclass(frozen=True)
class Protocol:
    """B50 with 5 steps: ``first`` 50, ``steps`` 5; B0 10x10: ``first`` 10, ``steps`` 9, the first ten being the base.

    Attributes:
        first: classes of the base.
        steps: experiences after it, of equally many classes each.
    """

    first: int
    steps: int

    def seen(self, classes: int) -> list[int]:
        """How many classes are known after the base and after each experience.

        Raises:
            InputError: the classes cannot be shared out equally.
        """
        rest = classes - self.first
        if not 2 <= self.first < classes or self.steps < 1 or rest % self.steps:
            raise InputError(
                f"{classes} classes do not make a base of {self.first} and {self.steps} equal experiences; "
                "choose numbers that divide"
            )
        return [self.first + rest // self.steps * step for step in range(self.steps + 1)]


def reordered(data: Dataset, seed: int) -> Dataset:
    """The same images with classes renumbered in a random order, the same for train and test."""
    order = np.random.RandomState(CLASS_ORDER_SEED + seed).permutation(len(data.classes))
    rank = np.argsort(order)
    return Dataset(data.images, rank[data.labels], tuple(data.classes[i] for i in order))


def first_classes(data: Dataset, known: int) -> Dataset:
    """Images of classes 0 to ``known`` - 1."""
    rows = data.labels < known
    return Dataset(data.images[rows], data.labels[rows], data.classes[:known])


def experiences(seen: list[int]) -> Iterator[range]:
    """Class numbers of each experience after the base."""
    for before, after in itertools.pairwise(seen):
        yield range(before, after)


@dataclass
class Course:
    """Per-class accuracies along a stream: ``rows[t][c]`` of class c after experience t, 0 to 1.

    The base is row 0; a row has as many classes as were known then.
    """

    rows: list[npt.NDArray[np.float64]]

    @property
    def curve(self) -> list[float]:
        """Mean over known classes after the base and each experience."""
        return [float(row.mean()) for row in self.rows]

    @property
    def average(self) -> float:
        """Average incremental accuracy: the mean of the curve, base included (iCaRL)."""
        return float(np.mean(self.curve))

    @property
    def last(self) -> float:
        """Accuracy on all classes at the end."""
        return self.curve[-1]

    @property
    def forgetting(self) -> float:
        """Mean over classes known before the end of (accuracy when just learned - accuracy at the end); CsKO's."""
        final = self.rows[-1]
        learned: list[float] = []
        for row in self.rows[:-1]:
            learned += row[len(learned) :].tolist()
        return float(np.mean(np.array(learned) - final[: len(learned)]))


def per_class(found: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], known: int) -> npt.NDArray[np.float64]:
    """Accuracy of classes 0 to ``known`` - 1."""
    return np.array([(found[labels == c] == c).mean() for c in range(known)], np.float64)
