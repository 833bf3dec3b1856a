"""Shuffled, augmented, normalised batches: reproducible by seed, resumable, divisible among processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from pocketstep.augment import Augmentation, blended, normalised
from pocketstep.data import Dataset
from pocketstep.strides import channels_first


class Feed:
    """Batches of a dataset on a device.

    Images that do not fill a last batch wait for another epoch's shuffle. Where several processes train, each makes
    the same random numbers and takes its part of every batch.

    Args:
        dataset: what to go through.
        batch: images of all processes together; at most the dataset's length is used.
        seed: of order and augmentation.
        augmentation: how images are varied.
        mean: of each channel, see ``normalised``.
        std: likewise.
        per_image: likewise.
        device: where the batches go.
        part: (this process, processes).
        channels_last: the memory format of batches.
    """

    def __init__(
        self, dataset: Dataset, batch: int, seed: int, augmentation: Augmentation, mean: Sequence[float],
        std: Sequence[float], *, per_image: bool = False, device: torch.device | None = None,
        part: tuple[int, int] = (0, 1), channels_last: bool = False,
    ) -> None:  # fmt: skip
        self.device = device or torch.device("cpu")
        self.images = torch.from_numpy(dataset.images).permute(0, 3, 1, 2)
        self.labels = torch.from_numpy(dataset.labels)
        self.batch = max(min(batch, len(dataset)) // part[1] * part[1], part[1])
        self.steps = len(dataset) // self.batch
        self.augmentation = augmentation
        self.statistics = (mean, std, per_image)
        self.channels_last = channels_last
        share = self.batch // part[1]
        self.own = slice(part[0] * share, (part[0] + 1) * share)
        self.generator = torch.Generator().manual_seed(seed)
        self.before_epoch = self.generator.get_state()
        normalised(self.images[:1], mean, std, per_image)  # their errors come before the first batch

    def epoch(self, first: int = 0, state: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass: normalised images (B, C, H, W) and labels (B,).

        Args:
            first: the step to begin with; those before were seen by a run that was interrupted.
            state: of the generator at that step; needed if ``first`` is not 0.
        """
        self.before_epoch = self.generator.get_state()
        order = torch.randperm(len(self.labels), generator=self.generator)
        if state is not None:
            self.generator.set_state(state)
        for step in range(first, self.steps):
            rows = order[step * self.batch : (step + 1) * self.batch]
            height, width = self.images.shape[2:]
            draws = self.augmentation.draw(len(rows), (height, width), self.generator).take(self.own)
            rows = rows[self.own]
            images = self.augmentation.move(self.images[rows], draws)
            images = blended(self.augmentation.mask(normalised(images, *self.statistics), draws), draws)
            if self.device.type == "cuda":
                images = images.pin_memory()  # else the copy waits for all that the device still does
            images = images.to(self.device, non_blocking=True)
            yield (
                images.contiguous(memory_format=torch.channels_last) if self.channels_last else channels_first(images),
                self.labels[rows].to(self.device, non_blocking=True),
            )
