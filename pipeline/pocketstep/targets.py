"""What goes along with a student: its latents of some images of each class, and the teacher's cached logits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pocketstep.compile import training
from pocketstep.compile.oracle import Oracle
from pocketstep.compile.signatures import LearningModel
from pocketstep.compile.strips import second_shape
from pocketstep.data import Dataset, Images
from pocketstep.request import Request
from pocketstep.schedules import SHRINKAGE
from pocketstep.training import evaluate
from pocketstep_device.samples import CLOUD, NO_LOGIT, Samples
from pocketstep_device.tensors import write_tensors

SEEN = 2000
"""Images that the bundle's covariances are taken from: thousands of places each."""


@torch.no_grad()
def encode(model: LearningModel, images: Images, batch: int = 256) -> Tensor:
    """Latents of uint8 images (N, H, W, C) in code units, (N, h, w, c), by PyTorch."""
    oracle = Oracle(model)
    parts = [
        oracle.encode({"images": torch.from_numpy(images[i : i + batch]).float()})["latents"]
        for i in range(0, len(images), batch)
    ]
    return torch.cat(parts)


def codes(latents: Tensor) -> npt.NDArray[np.int8]:
    """As they are stored: int8."""
    return latents.round().clamp(-128, 127).to(torch.int8).numpy()


def replay_samples(
    model: LearningModel, teacher: nn.Module, trained: Dataset | None, held_back: Dataset | None
) -> Samples:
    """The replay set of the bundle; empty without images.

    Args:
        model: the student as it is compiled.
        teacher: gives the soft targets, (N, classes) logits.
        trained: images to replay, some of the cloud's training images.
        held_back: images that no training saw; they only judge updates.
    """
    parts = [_samples(model, teacher, part, part is held_back) for part in (trained, held_back) if part is not None]
    return Samples.concat([Samples.empty(model.latent_shape, model.plan.slots), *parts])


def unlabelled_samples(model: LearningModel, images: Images, classes: int) -> Samples:
    """Latents of images without labels or teacher, for a golden trace where there is nothing to replay."""
    count, slots = len(images), model.plan.slots
    return Samples(
        codes(encode(model, images)),
        np.arange(count, dtype=np.int64) % classes,
        np.zeros((count, slots), np.float32),
        np.zeros(count, np.bool_),
        np.zeros(count, np.bool_),
        np.full(count, CLOUD, np.uint8),
        np.zeros(count, np.bool_),
    )


def _samples(model: LearningModel, teacher: nn.Module, data: Dataset, held_back: bool) -> Samples:
    logits = evaluate(teacher, data, model.mean, model.std)
    soft = np.full((len(data), model.plan.slots), NO_LOGIT, np.float32)
    soft[:, : logits.shape[1]] = logits
    return Samples(
        codes(encode(model, data.images)),
        data.labels.astype(np.int64),
        soft,
        np.ones(len(data), np.bool_),
        np.full(len(data), held_back, np.bool_),
        np.full(len(data), CLOUD, np.uint8),
        np.zeros(len(data), np.bool_),
    )


def joined_features(model: LearningModel, trained: dict[str, Tensor], images: Images, batch: int = 256) -> Tensor:
    """What the closed-form head sees of uint8 images (N, H, W, C), less the model's origin: (N, closed_size)."""
    size = model.closed_size
    zeros = {"closed.weight": torch.zeros(1, size), "closed.bias": torch.zeros(1), "blend": torch.zeros(1)}
    given = {**trained, **zeros, "class_mask": torch.ones(model.plan.slots)}
    oracle = Oracle(model)
    parts = [
        oracle.classify({**given, "latents": encode(model, images[start : start + batch])})["features"]
        for start in range(0, len(images), batch)
    ]
    return torch.cat(parts)


def replay_bytes(samples: Samples) -> bytes:
    """``replay.safetensors``."""
    return write_tensors(
        {
            "latents": samples.latents,
            "labels": samples.labels,
            "soft_targets": samples.soft_targets,
            "held_back": samples.held_back,
        }
    )


@torch.no_grad()
def initial_state(
    model: LearningModel, request: Request, trained: dict[str, Tensor], data: Dataset | None, features: Tensor | None
) -> dict[str, Tensor]:
    """Everything that changes on the device, as it leaves the cloud.

    Args:
        model: with its origin.
        request: classes and the step's options.
        trained: the trained tensors.
        data: all the cloud's training images; the closed-form head's statistics are theirs.
        features: what the closed-form head sees of them, (N, closed_size).

    Returns:
        Trained tensors, the optimiser's, ``count``, ``total``, ``second``, ``closed.*``, ``class_mask``, ``blend``.
    """
    slots, size = model.plan.slots, model.closed_size
    mask = torch.zeros(slots)
    mask[: len(request.classes)] = 1
    state = {
        **trained,
        **training.initial_state(model, request.step),
        "class_mask": mask,
        "blend": torch.zeros(1),
        "count": torch.zeros(slots),
        "total": torch.zeros(slots, size),
        "second": torch.zeros(second_shape(model.joined_size)),
        "closed.weight": torch.zeros(slots, size),
        "closed.bias": torch.zeros(slots),
    }
    if data is None or features is None:
        return state
    oracle = Oracle(model)
    labels = torch.nn.functional.one_hot(torch.from_numpy(data.labels), slots).float()
    given = {"features": features, "labels": labels, "label_weights": torch.ones(len(data))}
    state.update(oracle.statistics({**state, **given}))
    if "prototypes" in request.step.losses:
        state.update(_prototypes(model, trained, data, labels))
    if request.step.projection != "none":
        state.update(_covariances(model, request, state, data))
    rates = {"shrinkage": torch.tensor([SHRINKAGE]), "ridge": torch.zeros(1), "own": torch.ones(1)}
    state.update(oracle.solve({**state, **rates}))
    return state


def _prototypes(
    model: LearningModel, trained: dict[str, Tensor], data: Dataset, labels: Tensor, batch: int = 256
) -> dict[str, Tensor]:
    """Class means of the head's input over the cloud's images, and how many there were."""
    oracle, count = Oracle(model), labels.sum(0)
    total = torch.zeros(model.plan.slots, int(model.plan.parameters[model.head_weight].shape[1]))
    for start in range(0, len(data), batch):
        latents = {"latents": encode(model, data.images[start : start + batch])}
        total += labels[start : start + batch].T @ oracle.forward(latents, trained)[1]
    return {"prototypes": total / count.clamp(min=1)[:, None], "prototype_count": count}


def _covariances(
    model: LearningModel, request: Request, state: dict[str, Tensor], data: Dataset, batch: int = 256
) -> dict[str, Tensor]:
    """Of what projected kernels see of the cloud's images: up to ``SEEN`` of them, every class alike."""
    few = data.per_class(max(1, SEEN // len(data.classes)), request.seed)
    oracle, found = Oracle(model, request.step), {n: v for n, v in state.items() if n.startswith("covariance.")}
    for start in range(0, len(few), batch):
        latents = encode(model, few.images[start : start + batch])
        found = oracle.covariances({**state, **found, "latents": latents, "label_weights": torch.ones(len(latents))})
    return found
