"""What a training run tells: progress while it goes on, and its history."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pocketstep.data import Dataset


@dataclass(frozen=True)
class Progress:
    """Where a run is.

    Attributes:
        stage: name of the run.
        epoch, epochs: the epoch that is going on or done, from 1.
        loss: its mean so far.
        accuracy: 0..1, on its training batches as they were learnt.
        step, steps: of the whole run.
        seconds_left: estimated; None before the first step.
        watched: accuracy (0..1) on the images that are watched, the last time; None without them.
    """

    stage: str
    epoch: int
    epochs: int
    loss: float
    accuracy: float
    step: int = 0
    steps: int = 0
    seconds_left: float | None = None
    watched: float | None = None


@dataclass
class History:
    """Every epoch's progress, the watched accuracies as (step, 0..1), and the seconds of the whole run.

    Seconds that a resumed run took before it was interrupted count, up to its last checkpoint.
    """

    epochs: list[Progress] = field(default_factory=list)
    curve: list[tuple[int, float]] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True)
class Watch:
    """Images whose accuracy is measured while a run goes on.

    Attributes:
        dataset: the images.
        every: steps between two measurements; one more comes at the end.
        keep_best: whether the run ends with the weights that were best on them, not with the last.
        score: one number (0..1) from the accuracies of the classes (NaN where a class has no image); their mean.
    """

    dataset: Dataset
    every: int
    keep_best: bool = False
    score: Callable[[npt.NDArray[np.float64]], float] = lambda classes: float(np.nanmean(classes))


OnProgress = Callable[[Progress], None]
