"""The weighted sum of the losses of one batch, and its gradients: what ``step`` and ``score`` have in common."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pocketstep.compile import losses
from pocketstep.compile import operators as op
from pocketstep.compile.options import OUTPUTS, WEIGHTS, LossName, StepOptions
from pocketstep.compile.signatures import LearningModel, Spec, Values, class_mask_spec, latents_spec
from pocketstep.compile.walk import Walk
from pocketstep_device.errors import InputError


@dataclass(frozen=True)
class Pass:
    """One batch, forward and backward.

    Attributes:
        losses: ``loss``, the weighted sum, and each loss by the name of its output, (1,) each.
        gradients: of the weighted sum, by the name of the trained tensor.
        features: the head's input, (B, D).
        tap_inputs: by the name of a trained centre, or of all taps: what it was multiplied with, (B, h, w, I).
    """

    losses: dict[str, Tensor]
    gradients: dict[str, Tensor]
    features: Tensor
    tap_inputs: dict[str, Tensor]


def differentiate(model: LearningModel, v: Values, options: StepOptions) -> Pass:
    """Runs the trained suffix on a batch and back, through autograd.

    Args:
        model: what is compiled.
        v: inputs of ``step``, or of ``score`` with ``labels`` as the only loss.
        options: which losses.
    """
    leaves = {name: v[name].detach().requires_grad_() for name in model.plan.trained_groups}
    walk = Walk(model.network, model.plan, model.kernels, leaves)
    with torch.enable_grad():
        logits, features = model.suffix(walk, model.latent(v["latents"]))
        parts = _losses(v, options, logits, features, leaves)
        total = parts["labels"]
        for name, part in parts.items():
            total = total + v[WEIGHTS[name]] * part if name in WEIGHTS else total
        gradients = torch.autograd.grad(total, list(leaves.values()), op.frozen(lambda: torch.ones(1)))
    values = {"loss": total, **{OUTPUTS[name]: part for name, part in parts.items()}}
    return Pass(
        {name: value.detach() for name, value in values.items()},
        dict(zip(leaves, gradients, strict=True)),
        features.detach(),
        {name: value.detach() for name, value in walk.tap_inputs.items()},
    )


def _losses(
    v: Values, options: StepOptions, logits: Tensor, features: Tensor, leaves: Values
) -> dict[LossName, Tensor]:
    """Each loss that the options ask for, before its weight, in the order of ``LOSSES``."""
    parts: dict[LossName, Tensor] = {
        "labels": losses.CrossEntropy.apply(logits, v["labels"], v["class_mask"], v["label_weights"])
    }
    if "soft" in options.losses:
        parts["soft"] = losses.Distillation.apply(
            logits, v["soft_targets"], v["soft_mask"], v["temperature"], v["soft_weights"]
        )
    if "logits" in options.losses:
        parts["logits"] = losses.LogitDistance.apply(logits, v["soft_targets"], v["logit_mask"], v["soft_weights"])
    if "features" in options.losses:
        parts["features"] = losses.FeatureDistance.apply(features, v["feature_targets"], v["feature_weights"])
    if "prototypes" in options.losses:
        rows = op.Matrix.apply(v["prototypes"], leaves["head.weight"])
        rows = op.Shift.apply(rows, leaves["head.bias"])
        own = op.frozen(lambda: torch.eye(len(v["prototypes"])))
        parts["prototypes"] = losses.CrossEntropy.apply(rows, own, v["class_mask"], v["prototype_weights"])
    return parts


def feature_size(model: LearningModel) -> int:
    """Length of the head's input."""
    return int(model.plan.parameters[model.head_weight].shape[1])


def check(model: LearningModel, options: StepOptions) -> None:
    """That the options fit the network.

    Raises:
        InputError: feature targets shorter than the features.
    """
    size = feature_size(model)
    if options.feature_size is not None and options.feature_size < size:
        raise InputError(
            f"feature_size is {options.feature_size}, but the student's features have {size}; the shorter ones are "
            f"padded, and those must be the student's: give {size} or more"
        )


def label_specs(model: LearningModel, batch: int) -> list[Spec]:
    """Latents and labels."""
    return [
        latents_spec(model, batch),
        Spec("labels", (batch, model.plan.slots), "batch", "one-hot"),
        Spec("label_weights", (batch,), "batch", "weight of the cross-entropy of each sample, 0 for padding"),
    ]


def target_specs(model: LearningModel, batch: int, options: StepOptions) -> list[Spec]:
    """Targets of each sample, and which classes they are for."""
    slots, wanted = model.plan.slots, options.losses
    specs: list[Spec] = []
    if options.with_teacher:
        meaning = "weight of the distillation of each sample, 0 without target"
        specs += [
            Spec("soft_targets", (batch, slots), "batch", "cached logits of the old classes"),
            Spec("soft_weights", (batch,), "batch", meaning),
        ]
    if "features" in wanted:
        size = options.feature_size or feature_size(model)
        specs += [
            Spec("feature_targets", (batch, size), "batch", "cached features; only their direction counts"),
            Spec("feature_weights", (batch,), "batch", "weight of each sample's feature target, 0 without target"),
        ]
    specs.append(class_mask_spec(model))
    if "soft" in wanted:
        specs.append(Spec("soft_mask", (slots,), "control", "1 for a class that is distilled"))
    if "logits" in wanted:
        specs.append(Spec("logit_mask", (slots,), "control", "1 for a class that the teacher knows"))
    if "prototypes" in wanted:
        specs.append(Spec("prototype_weights", (slots,), "control", "weight of each class's prototype, 0 without"))
    return specs


def prototype_specs(model: LearningModel) -> list[Spec]:
    """The class means of the head's input, and how many samples each is the mean of."""
    slots = model.plan.slots
    return [
        Spec("prototypes", (slots, feature_size(model)), "state", "mean of the head's inputs of each class"),
        Spec("prototype_count", (slots,), "state", "samples that each prototype is the mean of"),
    ]
