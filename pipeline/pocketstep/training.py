"""The one training loop of the cloud side, and how networks are measured."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pocketstep.data import Dataset, Images
from pocketstep_device.errors import CheckFailedError, InputError

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""(model, normalised images (B, C, H, W), labels (B,)) -> scalar; calls the model once."""

_MOMENTUM, _WEIGHT_DECAY, _WARM_UP = 0.9, 5e-4, 0.05


@dataclass(frozen=True)
class Progress:
    """One finished epoch: mean loss, and accuracy (0..1) on the training batches as they were learnt."""

    stage: str
    epoch: int
    epochs: int
    loss: float
    accuracy: float


@dataclass
class History:
    """Every epoch's progress, and the wall-clock seconds of the whole run."""

    epochs: list[Progress] = field(default_factory=list)
    seconds: float = 0.0


def cross_entropy(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The default loss: softmax cross-entropy, averaged over the batch."""
    return nn.functional.cross_entropy(model(images), labels)


def prepare(images: Images, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Turns uint8 images (N, H, W, C) into the float (N, C, H, W) that networks take.

    (pixel / 255 - mean) / std, channel by channel.

    Raises:
        InputError: If ``mean`` or ``std`` has not one value per channel, or a deviation is not positive.
    """
    return _normalised(torch.from_numpy(images), *_statistics(images.shape[3], mean, std))


def fit(
    model: nn.Module,
    dataset: Dataset,
    *,
    epochs: int,
    batch: int,
    learning_rate: float,
    seed: int,
    mean: Sequence[float],
    std: Sequence[float],
    augment: bool,
    shift: int = 1,
    mirror: bool = False,
    loss: Loss | None = None,
    stage: str = "train",
    on_progress: Callable[[Progress], None] | None = None,
) -> History:
    """Trains the parameters that require gradients, in place; leaves the model in evaluation mode.

    SGD with Nesterov momentum 0.9 and weight decay 5e-4 (Zhao et al. §5), a cosine schedule per step after a
    warm-up over the first 5 % of the steps. Images that do not fill a last batch wait for another epoch's
    shuffle. The same seed, weights, machine and threads give the same result. Batches go
    to the model's device.

    Args:
        model: Takes normalised float images (B, C, H, W), returns logits (B, classes).
        dataset: What to learn.
        epochs: Passes over the dataset.
        batch: Images per step; at most the dataset's length is used.
        learning_rate: The schedule's peak.
        seed: Of the order and the augmentation.
        mean: Of each channel, pixels counted 0..1.
        std: Of each channel, pixels counted 0..1.
        augment: Whether to vary the images as the next two say.
        shift: Up to so many pixels in each direction (random crop of the zero-padded image).
        mirror: Whether to flip half of the images left-right; not for digits or letters.
        loss: What to minimise; ``cross_entropy`` when None.
        stage: Name given to ``on_progress``.
        on_progress: Called after each epoch.

    Raises:
        InputError: If a number is not positive, or the model has nothing to train.
        CheckFailedError: If the loss is no longer finite.
    """
    if min(epochs, batch, learning_rate) <= 0 or shift < 0:
        raise InputError(
            f"cannot train {epochs} epochs of batches of {batch} at learning rate {learning_rate} "
            f"and shift {shift}: give positive numbers"
        )
    feed = _Feed(model, dataset, batch, seed, mean, std, shift if augment else 0, augment and mirror)
    optimiser, schedule = _optimiser(model, learning_rate, epochs * feed.steps)
    history, start = History(), time.perf_counter()
    model.train()
    for epoch in range(1, epochs + 1):
        mean_loss, accuracy = _epoch(model, feed, loss or cross_entropy, optimiser, schedule)
        if not math.isfinite(mean_loss):
            raise CheckFailedError(
                f"{stage} diverged in epoch {epoch} (loss {mean_loss}): lower the learning rate of {learning_rate}"
            )
        history.epochs.append(Progress(stage, epoch, epochs, mean_loss, accuracy))
        if on_progress:
            on_progress(history.epochs[-1])
    model.eval()
    history.seconds = time.perf_counter() - start
    return history


@torch.no_grad()
def evaluate(
    model: nn.Module, dataset: Dataset, mean: Sequence[float], std: Sequence[float], *, batch: int = 256
) -> npt.NDArray[np.float32]:
    """Logits (N, classes), float32, of all images in order; the model is in evaluation mode meanwhile."""
    training, device = model.training, _device(model)
    model.eval()
    logits = [
        model(prepare(dataset.images[i : i + batch], mean, std).to(device)).float().cpu().numpy()
        for i in range(0, len(dataset), batch)
    ]
    model.train(training)
    return np.concatenate(logits)


def accuracy_per_class(
    logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], n: int
) -> npt.NDArray[np.float64]:
    """Share (0..1) of each class's images whose largest logit is their label's; NaN for an absent class.

    Args:
        logits: (N, at least one column).
        labels: (N,), values 0..n-1.
        n: Number of classes.

    Returns:
        float64 (n,); its mean is the accuracy that does not depend on how many images a class has.

    Raises:
        InputError: If the shapes disagree, or a label is out of range.
    """
    if (
        logits.ndim != 2
        or labels.shape != logits.shape[:1]
        or (len(labels) and not 0 <= labels.min() <= labels.max() < n)
    ):
        raise InputError(
            f"cannot score logits {logits.shape} with labels {labels.shape} of {n} classes: "
            "give one row of logits per label, and labels below the number of classes"
        )
    counts = np.bincount(labels, minlength=n).astype(np.float64)
    hits = np.bincount(labels, weights=logits.argmax(1) == labels, minlength=n)
    shares = np.full(n, np.nan)
    np.divide(hits, counts, out=shares, where=counts > 0)
    return shares


class _Feed:
    """Shuffled, augmented, normalised batches on the model's device, reproducible by seed."""

    def __init__(
        self,
        model: nn.Module,
        dataset: Dataset,
        batch: int,
        seed: int,
        mean: Sequence[float],
        std: Sequence[float],
        shift: int,
        mirror: bool,
    ) -> None:
        self.device = _device(model)
        self.images = torch.from_numpy(dataset.images)
        self.labels = torch.from_numpy(dataset.labels)
        self.batch = min(batch, len(dataset))
        self.steps = len(dataset) // self.batch
        self.statistics = _statistics(dataset.images.shape[3], mean, std)
        self.shift, self.mirror = shift, mirror
        self.generator = torch.Generator().manual_seed(seed)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.labels), generator=self.generator)
        for rows in order[: self.steps * self.batch].view(self.steps, self.batch):
            images = self.images[rows]
            if self.shift:
                images = _shifted(images, self.shift, self.generator)
            if self.mirror:
                flip = torch.rand(len(rows), generator=self.generator) < 0.5
                images[flip] = images[flip].flip(2)
            yield _normalised(images, *self.statistics).to(self.device), self.labels[rows].to(self.device)


def _epoch(
    model: nn.Module,
    feed: _Feed,
    loss: Loss,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> tuple[float, float]:
    """One pass; returns the mean loss and the accuracy, read off the logits that the loss computed."""
    seen: list[Tensor] = []
    hook = model.register_forward_hook(lambda module, inputs, logits: seen.append(logits.detach()))
    losses, hits = torch.zeros((), device=feed.device), torch.zeros((), device=feed.device)
    try:
        for images, labels in feed:
            value = loss(model, images, labels)
            optimiser.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            losses += value.detach()
            hits += (seen.pop().argmax(1) == labels).sum()
            seen.clear()
    finally:
        hook.remove()
    return losses.item() / feed.steps, hits.item() / (feed.steps * feed.batch)


def _optimiser(
    model: nn.Module, learning_rate: float, steps: int
) -> tuple[torch.optim.SGD, torch.optim.lr_scheduler.LambdaLR]:
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise InputError("nothing to train: no parameter requires gradients; unfreeze some")
    optimiser = torch.optim.SGD(
        parameters, learning_rate, momentum=_MOMENTUM, weight_decay=_WEIGHT_DECAY, nesterov=True
    )
    warm_up = max(1, round(_WARM_UP * steps))

    def factor(step: int) -> float:
        return min((step + 1) / warm_up, 1) * 0.5 * (1 + math.cos(math.pi * step / steps))

    return optimiser, torch.optim.lr_scheduler.LambdaLR(optimiser, factor)


def _shifted(images: Tensor, pixels: int, generator: torch.Generator) -> Tensor:
    """Crops every image (B, H, W, C) of the zero-padded batch at a random place."""
    count, height, width, _ = images.shape
    padded = nn.functional.pad(images, (0, 0, pixels, pixels, pixels, pixels))
    top, left = torch.randint(2 * pixels + 1, (2, count, 1), generator=generator)
    rows, columns = top + torch.arange(height), left + torch.arange(width)
    return padded[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def _statistics(channels: int, mean: Sequence[float], std: Sequence[float]) -> tuple[Tensor, Tensor]:
    if len(mean) != channels or len(std) != channels or min(std) <= 0:
        raise InputError(
            f"images have {channels} channels, mean is {tuple(mean)} and std {tuple(std)}: "
            "give one of each per channel, deviations above 0"
        )
    return torch.tensor(mean).view(-1, 1, 1), torch.tensor(std).view(-1, 1, 1)


def _normalised(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return ((images.permute(0, 3, 1, 2).float() / 255 - mean) / std).contiguous()


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))
