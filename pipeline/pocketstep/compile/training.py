"""``step`` and ``score``: forward, loss, backward and optimiser as one function without side effects."""

from __future__ import annotations

import torch
from torch import Tensor

from pocketstep.compile import losses
from pocketstep.compile.operators import frozen
from pocketstep.compile.signatures import (
    LearningModel,
    Signature,
    Spec,
    Values,
    class_mask_spec,
    latents_spec,
    trained_specs,
)


def step(model: LearningModel, batch: int) -> Signature:
    """One step of SGD with momentum on cross-entropy and distillation.

    g <- dL/dw + decay * w;  m <- momentum * m + g;  w <- w - rate * factor * mask * m  (PyTorch's SGD; the mask
    freezes single weights, ODIL; the factor is TeAM's rate a group).
    """
    groups = model.plan.trained_groups
    names = list(groups)

    def function(v: Values) -> dict[str, Tensor]:
        loss, parts, gradients = _differentiate(model, v, names, with_soft=True)
        result = {"loss": loss, "label_loss": parts[0], "soft_loss": parts[1]}
        for name, gradient in zip(names, gradients, strict=True):
            weight = v[name].detach()
            velocity = v["momentum"] * v[f"momentum.{name}"] + gradient + v["weight_decay"] * weight
            rate = v["learning_rate"] * v[f"factor.{groups[name]}"]
            result[name] = weight - rate * (v[f"mask.{name}"] * velocity)
            result[f"momentum.{name}"] = velocity
        return result

    inputs = [
        *_batch_specs(model, batch),
        Spec("soft_targets", (batch, model.plan.slots), "batch", "cached logits of the old classes"),
        Spec("soft_weights", (batch,), "batch", "weight of the distillation of each sample, 0 without target"),
        class_mask_spec(model),
        Spec("soft_mask", (model.plan.slots,), "control", "1 for a class that is distilled"),
        *_hyper_specs(model),
        *trained_specs(model, "mask.", "control", "1 where a weight may move, 0 where it is frozen"),
        *trained_specs(model, "", "state", "trained tensor"),
        *trained_specs(model, "momentum.", "state", "optimiser's momentum"),
    ]
    outputs = [
        Spec("loss", (1,), "result", "label_loss + distillation * soft_loss"),
        Spec("label_loss", (1,), "result", "cross-entropy"),
        Spec("soft_loss", (1,), "result", "distillation"),
        *trained_specs(model, "", "state", "trained tensor"),
        *trained_specs(model, "momentum.", "state", "optimiser's momentum"),
    ]
    return Signature("step", batch, tuple(inputs), tuple(_paired(outputs, names)), function)


def score(model: LearningModel, batch: int) -> Signature:
    """Adds one batch's gradients and importances (g * w)^2 (ODIL) to sums; nothing is updated."""
    names = list(model.plan.trained_groups)

    def function(v: Values) -> dict[str, Tensor]:
        _, _, gradients = _differentiate(model, v, names, with_soft=False)
        result: dict[str, Tensor] = {}
        for name, gradient in zip(names, gradients, strict=True):
            result[f"gradient.{name}"] = v[f"gradient.{name}"] + gradient
            result[f"importance.{name}"] = v[f"importance.{name}"] + (gradient * v[name].detach()) ** 2
        return result

    sums = [
        *trained_specs(model, "gradient.", "statistics", "sum of gradients"),
        *trained_specs(model, "importance.", "statistics", "sum of (gradient * weight)^2"),
    ]
    inputs = [
        *_batch_specs(model, batch),
        class_mask_spec(model),
        *trained_specs(model, "", "state", "trained tensor"),
        *sums,
    ]
    by_name = {s.name: s for s in sums}
    ordered = [by_name[f"{kind}.{name}"] for name in names for kind in ("gradient", "importance")]
    return Signature("score", batch, tuple(inputs), tuple(ordered), function)


def _paired(outputs: list[Spec], names: list[str]) -> list[Spec]:
    """Outputs in the order in which the function makes them."""
    by_name = {s.name: s for s in outputs}
    order = ["loss", "label_loss", "soft_loss", *(n for name in names for n in (name, f"momentum.{name}"))]
    return [by_name[name] for name in order]


def _differentiate(
    model: LearningModel, v: Values, names: list[str], *, with_soft: bool
) -> tuple[Tensor, tuple[Tensor, Tensor], tuple[Tensor, ...]]:
    leaves = [v[name].detach().requires_grad_() for name in names]
    with torch.enable_grad():
        logits, _ = model.suffix(model.latent(v["latents"]), dict(zip(names, leaves, strict=True)))
        label_loss = losses.CrossEntropy.apply(logits, v["labels"], v["class_mask"], v["label_weights"])
        loss, soft_loss = label_loss, label_loss
        if with_soft:
            soft_loss = losses.Distillation.apply(
                logits, v["soft_targets"], v["soft_mask"], v["temperature"], v["soft_weights"]
            )
            loss = label_loss + v["distillation"] * soft_loss
        gradients = torch.autograd.grad(loss, leaves, frozen(lambda: torch.ones(1)))
    return loss.detach(), (label_loss.detach(), soft_loss.detach()), gradients


def _batch_specs(model: LearningModel, batch: int) -> list[Spec]:
    return [
        latents_spec(model, batch),
        Spec("labels", (batch, model.plan.slots), "batch", "one-hot"),
        Spec("label_weights", (batch,), "batch", "weight of the cross-entropy of each sample, 0 for padding"),
    ]


def _hyper_specs(model: LearningModel) -> list[Spec]:
    groups = sorted(set(model.plan.trained_groups.values()))
    return [
        Spec("learning_rate", (1,), "hyper", "SGD's rate"),
        Spec("momentum", (1,), "hyper", "SGD's momentum"),
        Spec("weight_decay", (1,), "hyper", "L2 decay"),
        Spec("temperature", (1,), "hyper", "T of the distillation"),
        Spec("distillation", (1,), "hyper", "weight of the distillation"),
        *(Spec(f"factor.{group}", (1,), "hyper", f"learning-rate factor of group {group}") for group in groups),
    ]
