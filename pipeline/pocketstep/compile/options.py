"""What a ``step`` is made of: its optimiser, its losses, clipping and projection; and the rates that they bring.

Options are fixed when a bundle is built; rates and weights of losses are inputs of the program and stay free.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pocketstep_device.errors import InputError

OptimiserName = Literal["sgd", "adam", "adamw"]
LossName = Literal["labels", "soft", "logits", "features", "prototypes"]
ProjectionName = Literal["none", "matrix"]
Range = tuple[float, float, float, str]
"""A hyper-parameter's default, smallest and largest value, and its meaning."""

OPTIMISERS: tuple[OptimiserName, ...] = ("sgd", "adam", "adamw")
LOSSES: tuple[LossName, ...] = ("labels", "soft", "logits", "features", "prototypes")
PROJECTIONS: tuple[ProjectionName, ...] = ("none", "matrix")

WEIGHTS: dict[LossName, str] = {
    "soft": "distillation",
    "logits": "logit_transfer",
    "features": "feature_transfer",
    "prototypes": "prototype_replay",
}
"""The hyper-parameter that weighs each loss; ``labels`` has weight one, or none by zero ``label_weights``."""

OUTPUTS: dict[LossName, str] = {
    "labels": "label_loss",
    "soft": "soft_loss",
    "logits": "logit_loss",
    "features": "feature_loss",
    "prototypes": "prototype_loss",
}
"""The output of ``step`` that each loss is, before its weight."""

MEANINGS: dict[LossName, str] = {
    "labels": "cross-entropy",
    "soft": "distillation",
    "logits": "distance of logits",
    "features": "squared distance of normalised features",
    "prototypes": "cross-entropy of prototypes",
}


@dataclass(frozen=True)
class StepOptions:
    """What the ``step`` and ``score`` of a bundle can do.

    Attributes:
        optimiser: ``sgd`` (with momentum and L2 decay), ``adam`` (L2 decay) or ``adamw`` (decoupled decay).
        nesterov: SGD looks ahead along the momentum.
        losses: ``labels``, and any of ``soft`` (distillation at a temperature), ``logits`` (distance of logits),
            ``features`` (distance of normalised features) and ``prototypes`` (the head on stored class means).
        clip: bounds the norm of all gradients together.
        projection: ``matrix`` multiplies each tap's update with a matrix, so that it spares a subspace of inputs.
        feature_size: length of the feature targets where the teacher's features are longer than the student's,
            which are padded with zeros then; None for the student's own length.

    Raises:
        InputError: an unknown name, or options that do not go together.
    """

    optimiser: OptimiserName = "sgd"
    nesterov: bool = False
    losses: tuple[LossName, ...] = ("labels", "soft")
    clip: bool = False
    projection: ProjectionName = "none"
    feature_size: int | None = None

    def __post_init__(self) -> None:
        _check_name("optimiser", self.optimiser, OPTIMISERS)
        _check_name("projection", self.projection, PROJECTIONS)
        for loss in self.losses:
            _check_name("loss", loss, LOSSES)
        if len(set(self.losses)) < len(self.losses):
            raise InputError(f"a loss is listed twice in {', '.join(self.losses)}; list each once")
        if "labels" not in self.losses:
            raise InputError(
                "the losses lack 'labels', which is always there; to train without labels, give label weights of 0"
            )
        if self.nesterov and self.optimiser != "sgd":
            raise InputError(f"nesterov goes with sgd, not with {self.optimiser}; leave out one of the two")
        if self.feature_size is not None and ("features" not in self.losses or self.feature_size < 1):
            raise InputError(
                f"feature_size is {self.feature_size}; give a length of 1 or more, and only with the loss 'features'"
            )

    @property
    def with_teacher(self) -> bool:
        """Whether a loss needs the cached logits."""
        return "soft" in self.losses or "logits" in self.losses

    def hyper(self, groups: Iterable[str]) -> dict[str, Range]:
        """Every hyper-parameter of ``step``, in the order of its inputs.

        Args:
            groups: learning-rate groups of the plan.
        """
        sgd, name = self.optimiser == "sgd", {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW"}[self.optimiser]
        ranges: dict[str, Range] = {"learning_rate": (0.005 if sgd else 0.001, 0.0, 10.0, f"{name}'s rate")}
        if sgd:
            ranges["momentum"] = (0.9, 0.0, 0.999, "SGD's momentum")
        else:
            ranges["beta1"] = (0.9, 0.0, 0.9999, f"{name}'s decay of the mean gradient")
            ranges["beta2"] = (0.999, 0.0, 0.99999, f"{name}'s decay of the mean squared gradient")
            ranges["epsilon"] = (1e-8, 1e-10, 1.0, f"{name}'s addition to the root")
        decoupled = self.optimiser == "adamw"
        ranges["weight_decay"] = (0.01, 0.0, 1.0, "decoupled decay") if decoupled else (1e-4, 0.0, 1.0, "L2 decay")
        ranges.update({key: value for loss, rates in _OF_LOSSES.items() if loss in self.losses for key, value in rates})
        if self.clip:
            ranges["clip_norm"] = (10.0, 1e-6, 1e9, "largest norm of all gradients together")
        for group in sorted(set(groups)):
            ranges[f"factor.{group}"] = (1.0, 0.0, 100.0, f"learning-rate factor of group {group}")
        return ranges


_OF_LOSSES: dict[LossName, tuple[tuple[str, Range], ...]] = {
    "soft": (
        ("temperature", (2.0, 0.1, 100.0, "T of the distillation")),
        ("distillation", (1.0, 0.0, 100.0, "weight of the distillation")),
    ),
    "logits": (("logit_transfer", (0.0, 0.0, 100.0, "weight of the distance of logits")),),
    "features": (("feature_transfer", (0.0, 0.0, 100.0, "weight of the distance of features")),),
    "prototypes": (("prototype_replay", (0.0, 0.0, 100.0, "weight of the prototypes' cross-entropy")),),
}


def _check_name(what: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        close = difflib.get_close_matches(str(name), known, n=1)
        advice = f"did you mean '{close[0]}'?" if close else f"choose one of {', '.join(known)}"
        raise InputError(f"unknown {what} '{name}'; {advice}")


DEFAULT = StepOptions()
"""SGD with momentum on cross-entropy and distillation."""
