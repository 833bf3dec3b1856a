"""Training and measuring networks on the cloud side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pocketstep.augment import Augmentation, normalised
from pocketstep.checkpoint import Checkpoint, digest
from pocketstep.data import Dataset, Images
from pocketstep.feed import Feed
from pocketstep.history import History, OnProgress, Watch
from pocketstep.loop import Loss, Run
from pocketstep.parallel import Workers, practical
from pocketstep.rates import schedule_named
from pocketstep.sizes import check_smaller, growing, whole
from pocketstep.strides import channels_first
from pocketstep_device.errors import InputError


def cross_entropy(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The default loss: softmax cross-entropy, averaged over the batch."""
    logits: Tensor = model(images)
    return nn.functional.cross_entropy(logits.float(), labels)


def prepare(images: Images, mean: Sequence[float], std: Sequence[float], per_image: bool = False) -> Tensor:
    """Turns uint8 images (N, H, W, C) into the float (N, C, H, W) that networks take; see ``normalised``.

    Raises:
        InputError: If ``mean`` or ``std`` has not one value per channel, or a deviation is not positive.
    """
    return channels_first(normalised(torch.from_numpy(images).permute(0, 3, 1, 2), mean, std, per_image))


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
    cutout: int = 0,
    mix: bool = False,
    per_image: bool = False,
    schedule: str = "cosine",
    small_first: bool = False,
    precision: str = "float32",
    loss: Loss | None = None,
    stage: str = "train",
    watch: Watch | None = None,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 30.0,
    key: str = "",
    on_progress: OnProgress | None = None,
    on_step: OnProgress | None = None,
) -> History:
    """Trains the parameters that require gradients, in place; leaves the model in evaluation mode.

    SGD with Nesterov momentum 0.9 and weight decay 5e-4 (Zhao et al. §5). Images that do not fill a last batch wait
    for another epoch's shuffle. The same seed, weights, machine and threads give the same result, also when the run
    was killed and goes on from its checkpoint; on a GPU, to rounding. Batches go to the model's device. Frozen batch
    norms keep their statistics. Under ``accelerate launch`` all processes share each batch.

    Args:
        model: Takes normalised float images (B, C, H, W), returns logits (B, classes).
        dataset: What to learn.
        epochs: Passes over the dataset.
        batch: Images per step, of all processes together; at most the dataset's length is used.
        learning_rate: The schedule's peak.
        seed: Of the order and the augmentation.
        mean: Of each channel, pixels counted 0..1.
        std: Of each channel, pixels counted 0..1.
        augment: Whether to vary the images as the next four say.
        shift: Up to so many pixels in each direction (random crop of the zero-padded image).
        mirror: Whether to flip half of the images left-right; not for digits or letters.
        cutout: Side in pixels of a square to mask out; 0 for none.
        mix: Whether to mix images in pairs, for a loss that looks at no label.
        per_image: Normalise each image by its own mean and deviation; ``mean`` and ``std`` do not matter then.
        schedule: ``cosine`` (after a short warm-up) or ``one-cycle``.
        small_first: Whether early steps see smaller images, see ``sizes.growing``.
        precision: ``float32``, ``bfloat16``, or ``float16`` (CUDA); the latter two keep float32 weights. A CPU that
            would emulate ``bfloat16`` computes in float32.
        loss: What to minimise; ``cross_entropy`` when None.
        stage: Name given to ``on_progress``.
        watch: Images to measure on the way.
        checkpoint: A file that keeps the run after each epoch and every ``checkpoint_seconds`` within; a run that
            finds its own file there goes on from it. Delete it when the result is kept.
        checkpoint_seconds: See ``checkpoint``.
        key: What else tells a run from another one, such as its loss; a checkpoint of another key is not gone on from.
        on_progress: Called after each epoch.
        on_step: Called at most twice a second.

    Raises:
        InputError: If a number is out of range, a name unknown, the model has nothing to train or takes no smaller
            images, or the checkpoint is damaged.
        CheckFailedError: If the loss is no longer finite.
    """
    if min(epochs, batch, learning_rate) <= 0 or shift < 0:
        raise InputError(
            f"cannot train {epochs} epochs of batches of {batch} at learning rate {learning_rate} "
            f"and shift {shift}: give positive numbers"
        )
    rates, device = schedule_named(schedule), _device(model)
    precision = practical(precision, device)
    channels_last = precision != "float32"
    workers = Workers(device, precision)
    varied = Augmentation(shift, mirror, cutout, mix) if augment else Augmentation()
    if channels_last:
        model.to(memory_format=torch.channels_last)
    feed = Feed(
        dataset, batch, seed, varied, mean, std, per_image=per_image, device=device,
        part=(workers.rank, workers.count), channels_last=channels_last,
    )  # fmt: skip
    if small_first:
        check_smaller(model.eval(), feed.images[:1].to(device, torch.float32))
    kept = None
    if checkpoint:
        settings = [
            epochs, batch, learning_rate, seed, list(mean), list(std), augment, shift, mirror, cutout, mix,
            per_image, schedule, small_first, precision, stage, workers.count, watch.every if watch else 0, key,
        ]  # fmt: skip
        identity = digest(settings, feed.images, feed.labels, *model.state_dict().values())
        kept = Checkpoint(checkpoint, identity, checkpoint_seconds)

    def score() -> float:
        assert watch
        logits = evaluate(model, watch.dataset, mean, std, per_image=per_image, precision=precision)
        return watch.score(accuracy_per_class(logits, watch.dataset.labels, len(watch.dataset.classes)))

    run = Run(
        model, feed, loss or cross_entropy, epochs, learning_rate, rates, growing if small_first else whole, workers,
        stage=stage, checkpoint=kept, watch=watch, score=score, on_progress=on_progress, on_step=on_step,
    )  # fmt: skip
    return run.go()


@torch.no_grad()
def evaluate(
    model: nn.Module,
    dataset: Dataset,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    batch: int = 256,
    per_image: bool = False,
    precision: str = "float32",
) -> npt.NDArray[np.float32]:
    """Logits (N, classes), float32, of all images in order; the model is in evaluation mode meanwhile."""
    training, device = model.training, _device(model)
    model.eval()
    logits = []
    for start in range(0, len(dataset), batch):
        images = prepare(dataset.images[start : start + batch], mean, std, per_image).to(device)
        if precision != "float32":
            images = images.contiguous(memory_format=torch.channels_last)
        dtype = getattr(torch, precision)
        with torch.autocast(device.type, dtype=dtype, enabled=precision != "float32"):
            logits.append(model(images).float().cpu().numpy())
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


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))
