"""Who sees what in a simulated fleet: imbalanced, few classes each, written to one small file a device."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from flwr.app import Context

from pocketstep.data import Dataset
from pocketstep.recipe import FleetRecipe
from pocketstep_device import Learner

IMAGES = "images.npz"


@dataclass(frozen=True)
class Population:
    """Devices as folders; can be sent to another process.

    Attributes:
        folder: holds a folder a device.
        bundle: that all have.
        runtime: that they run it with.
    """

    folder: Path
    bundle: Path
    runtime: str = "litert"

    def __call__(self, context: Context) -> AbstractContextManager[Learner]:
        """The learner of one device; it observes its images when it is opened for the first time."""
        return self.open(int(context.node_config["partition-id"]))

    def open(self, number: int) -> Learner:
        """As above, by the device's number."""
        home = self.folder / f"{number:06d}"
        learner = Learner.open(self.bundle, home / "state", self.runtime, threads=1)
        try:
            if not len(learner.samples):
                self._observe(learner, home / IMAGES)
        except BaseException:
            learner.close()
            raise
        return learner

    @staticmethod
    def _observe(learner: Learner, path: Path) -> None:
        with np.load(path, allow_pickle=False) as archive:
            images, labels = archive["images"], archive["labels"]
        for name in sorted(set(labels.tolist())):
            if name not in learner.classes:
                learner.add_class(name)
            learner.observe(images[labels == name], name)


def write_population(part: FleetRecipe, data: Dataset, folder: Path) -> None:
    """Writes every device's images.

    Each device draws some classes, and of each half as many images as of the one before, at least two; images may go to
    several devices.

    Args:
        part: the fleet.
        data: what there is to see.
        folder: made when missing.
    """
    random = np.random.default_rng(part.seed)
    rows = [np.flatnonzero(data.labels == c) for c in range(len(data.classes))]
    shares = 0.5 ** np.arange(min(part.classes_per_client, len(rows)))
    counts = np.maximum(2, np.round(part.images_per_client * shares / shares.sum())).astype(int)
    for number in range(part.clients):
        classes = random.choice(len(rows), len(counts), replace=False)
        chosen = np.concatenate(
            [random.choice(rows[c], min(n, len(rows[c])), replace=False) for c, n in zip(classes, counts, strict=True)]
        )
        home = folder / f"{number:06d}"
        home.mkdir(parents=True, exist_ok=True)
        np.savez(home / IMAGES, images=data.images[chosen], labels=np.array(data.classes)[data.labels[chosen]])
