"""Optimisers as functions of named tensors: state in, update and new state out, with ``torch.optim``'s formulas.

An update is what is taken from a weight after the learning rate, its factor, the mask and the projection, which are
the caller's. Masks do not reach the state: moments of a frozen weight go on, so that it has a true history when it is
freed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from pocketstep.compile.operators import column_sums, frozen, row_sums
from pocketstep.compile.options import StepOptions
from pocketstep.compile.signatures import LearningModel, Spec, Values, trained_specs


class Optimiser(ABC):
    """One step of an optimiser.

    Attributes:
        moments: prefix of each state tensor of a trained tensor's shape -> its meaning; zero to begin with.
        scalars: name of each state tensor (1,) that all trained tensors share -> its meaning; one to begin with.
        shared: the shared state after this step.

    Args:
        options: of the step.
        v: hyper-parameters, weights and state by name.
    """

    moments: ClassVar[Mapping[str, str]]
    scalars: ClassVar[Mapping[str, str]] = {}

    def __init__(self, options: StepOptions, v: Values):
        self.options, self.v = options, v
        self.shared: dict[str, Tensor] = {}

    @abstractmethod
    def update(self, name: str, gradient: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """A trained tensor's update and its new moments, all of its shape."""

    def _decay(self, name: str) -> Tensor:
        return self.v["weight_decay"] * self.v[name].detach()


class Sgd(Optimiser):
    """g <- g + decay * w;  m <- momentum * m + g;  the update is m, or g + momentum * m (Nesterov)."""

    moments: ClassVar = {"momentum.": "optimiser's momentum"}

    def update(self, name: str, gradient: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The velocity, or where it leads."""
        momentum = self.v["momentum"]
        carried = momentum * self.v[f"momentum.{name}"] + gradient
        decay = self._decay(name)
        velocity = carried + decay
        update = gradient + decay + momentum * velocity if self.options.nesterov else velocity
        return update, {f"momentum.{name}": velocity}


class Adam(Optimiser):
    """Adam (Kingma and Ba 2015, algorithm 1), with L2 decay, and AdamW (Loshchilov and Hutter 2019, algorithm 2).

    m <- beta1 m + (1 - beta1) g;  s <- beta2 s + (1 - beta2) g^2;  the update is
    m / (1 - beta1^t) / (sqrt(s / (1 - beta2^t)) + epsilon).

    beta^t is state, so that no power is taken and no steps are counted. AdamW's decay is part of the update: the same
    as decaying the weight first, and a projection holds it too.
    """

    moments: ClassVar = {"first.": "mean of gradients", "second_moment.": "mean of squared gradients"}
    scalars: ClassVar = {"beta1_power": "beta1 to the power of all steps", "beta2_power": "beta2 to that power"}

    def __init__(self, options: StepOptions, v: Values):
        super().__init__(options, v)
        one = frozen(lambda: torch.ones(1))
        self.shared = {f"{beta}_power": v[f"{beta}_power"] * v[beta] for beta in ("beta1", "beta2")}
        self.rest = {beta: one - v[beta] for beta in ("beta1", "beta2")}
        self.unbias = {beta: one / (one - self.shared[f"{beta}_power"]) for beta in ("beta1", "beta2")}

    def update(self, name: str, gradient: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean gradient over the root of the mean squared gradient."""
        v, decoupled = self.v, self.options.optimiser == "adamw"
        if not decoupled:
            gradient = gradient + self._decay(name)
        first = v["beta1"] * v[f"first.{name}"] + self.rest["beta1"] * gradient
        second = v["beta2"] * v[f"second_moment.{name}"] + self.rest["beta2"] * (gradient * gradient)
        update = first * self.unbias["beta1"] / (torch.sqrt(second * self.unbias["beta2"]) + v["epsilon"])
        update = update + self._decay(name) if decoupled else update
        return update, {f"first.{name}": first, f"second_moment.{name}": second}


BY_NAME: dict[str, type[Optimiser]] = {"sgd": Sgd, "adam": Adam, "adamw": Adam}


def state_specs(model: LearningModel, options: StepOptions) -> list[Spec]:
    """The optimiser's state."""
    kind = BY_NAME[options.optimiser]
    moments = [s for prefix, meaning in kind.moments.items() for s in trained_specs(model, prefix, "state", meaning)]
    return [*moments, *(Spec(name, (1,), "state", meaning) for name, meaning in kind.scalars.items())]


def norm(tensors: Iterable[Tensor]) -> Tensor:
    """The norm of all tensors together, (1,)."""
    rows = [t.reshape(-1, t.shape[-1]) for t in tensors]
    squares = [column_sums(row_sums(r * r)) for r in rows]
    return torch.sqrt(sum(squares[1:], squares[0])).reshape(1)


def clip_factor(total: Tensor, largest: Tensor) -> Tensor:
    """What ``torch.nn.utils.clip_grad_norm_`` multiplies gradients of norm ``total`` with, (1,)."""
    return torch.clamp(largest / (total + 1e-6), max=1.0)
