"""The losses of ``step`` in PyTorch's own words; shares nothing with ``losses``."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from pocketstep.compile.options import StepOptions

ABSENT = -1e30
Values = Mapping[str, Tensor]


def losses(v: Values, options: StepOptions, logits: Tensor, features: Tensor, leaves: Values) -> dict[str, Tensor]:
    """``loss`` and its parts by the names of the outputs of ``step``, scalars that carry gradients.

    Args:
        v: inputs of ``step``.
        options: which losses.
        logits: (B, slots).
        features: the head's input, (B, D).
        leaves: trained tensors by name.
    """
    present = logits.masked_fill(v["class_mask"] == 0, ABSENT)
    each = -(present.log_softmax(1) * v["labels"]).sum(1)
    total = label_loss = weighted_mean(each, v["label_weights"])
    parts = {"label_loss": label_loss}
    if "soft" in options.losses:
        parts["soft_loss"] = _distillation(v, logits)
        total = total + v["distillation"] * parts["soft_loss"]
    if "logits" in options.losses:
        parts["logit_loss"] = _logit_distance(v, logits)
        total = total + v["logit_transfer"] * parts["logit_loss"]
    if "features" in options.losses:
        parts["feature_loss"] = _feature_distance(v, features)
        total = total + v["feature_transfer"] * parts["feature_loss"]
    if "prototypes" in options.losses:
        parts["prototype_loss"] = _prototypes(v, leaves)
        total = total + v["prototype_replay"] * parts["prototype_loss"]
    return {"loss": total, **parts}


def weighted_mean(each: Tensor, weights: Tensor) -> Tensor:
    """Of one number a sample, (B,); zero where all weights are."""
    return (each * weights).sum() / weights.sum().clamp(min=1e-6)


def _distillation(v: Values, logits: Tensor) -> Tensor:
    temperature, old = float(v["temperature"]), v["soft_mask"] > 0
    target = (v["soft_targets"][:, old] / temperature).softmax(1)
    ours = (logits[:, old] / temperature).log_softmax(1)
    each = F.kl_div(ours, target, reduction="none").sum(1)
    return weighted_mean(each, v["soft_weights"]) * temperature**2


def _logit_distance(v: Values, logits: Tensor) -> Tensor:
    known = v["logit_mask"] > 0
    difference = (logits - v["soft_targets"])[:, known]
    never_zero = F.pad(difference, (0, 1), value=1e-3)  # the loss is defined so: smooth where both agree
    return weighted_mean(torch.linalg.vector_norm(never_zero, dim=1), v["soft_weights"])


def _feature_distance(v: Values, features: Tensor) -> Tensor:
    targets = v["feature_targets"]
    features = F.pad(features, (0, targets.shape[1] - features.shape[1]))
    each = F.mse_loss(F.normalize(features, dim=1), F.normalize(targets, dim=1), reduction="none").sum(1)
    return weighted_mean(each, v["feature_weights"])


def _prototypes(v: Values, leaves: Values) -> Tensor:
    rows = F.linear(v["prototypes"], leaves["head.weight"], leaves["head.bias"])
    rows = rows.masked_fill(v["class_mask"] == 0, ABSENT)
    there = v["prototype_weights"] > 0
    each = F.cross_entropy(rows, torch.arange(len(rows)), reduction="none")
    return weighted_mean(torch.where(there, each, 0.0), v["prototype_weights"])
