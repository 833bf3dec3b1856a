"""A data set that is learned at once."""

from __future__ import annotations

import numpy as np

from pocketstep.data import Dataset


def images(per_class: int, classes: int, side: int = 8, seed: int = 0) -> Dataset:
    """Images whose colour says their class, with noise."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), per_class)
    colours = np.random.default_rng(9).integers(30, 220, (classes, 1, 1, 3))
    pixels = colours[labels] + random.normal(0, 20, (len(labels), side, side, 3))
    return Dataset(np.clip(pixels, 0, 255).astype(np.uint8), labels, tuple(f"class {c}" for c in range(classes)))
