"""``torch.optim`` and PyTorch's clipping on named tensors; shares nothing with ``optimisers``."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from pocketstep.compile.options import StepOptions

Values = Mapping[str, Tensor]
SGD = {"momentum.": "momentum_buffer"}
ADAM = {"first.": "exp_avg", "second_moment.": "exp_avg_sq"}
"""Our prefixes of an optimiser's state -> PyTorch's names."""


def clip(v: Values, leaves: Values) -> Tensor:
    """Clips the leaves' gradients in place, by the norm of those that may move their weights; that norm, (1,)."""
    free = [torch.nn.Parameter(leaf.detach()) for leaf in leaves.values()]
    for (name, leaf), copy in zip(leaves.items(), free, strict=True):
        assert leaf.grad is not None
        copy.grad = torch.where(v[f"mask.{name}"] > 0, leaf.grad, 0.0)
    largest = float(v["clip_norm"])
    norm = torch.nn.utils.clip_grad_norm_(free, largest)
    torch.nn.utils.clip_grads_with_norm_(leaves.values(), largest, norm)
    return norm.reshape(1)


def make(options: StepOptions, v: Values, leaves: Values, groups: Mapping[str, str]) -> torch.optim.Optimizer:
    """A new optimiser over trained tensors, each with its group's rate."""
    rate, decay = float(v["learning_rate"]), float(v["weight_decay"])
    rated = [{"params": [leaf], "lr": rate * float(v[f"factor.{groups[name]}"])} for name, leaf in leaves.items()]
    if options.optimiser == "sgd":
        momentum = float(v["momentum"])
        ahead = options.nesterov and momentum > 0
        return torch.optim.SGD(rated, rate, momentum, weight_decay=decay, nesterov=ahead)
    kind = torch.optim.Adam if options.optimiser == "adam" else torch.optim.AdamW
    betas = (float(v["beta1"]), float(v["beta2"]))
    return kind(rated, rate, betas, float(v["epsilon"]), weight_decay=decay)


@torch.no_grad()
def restrict(v: Values, leaves: Values) -> dict[str, Tensor]:
    """Trained tensors after an optimiser moved ``leaves`` from ``v``: moves projected, masked weights put back."""
    result: dict[str, Tensor] = {}
    for name, leaf in leaves.items():
        move = leaf.detach() - v[name]
        if f"projection.{name}" in v:
            move = v[f"projection.{name}"] @ move
        result[name] = torch.where(v[f"mask.{name}"] > 0, v[name] + move, v[name])
    return result


def load_state(optimiser: torch.optim.Optimizer, v: Values, leaves: Values) -> None:
    """Gives a new optimiser the state that came as inputs; Adam's steps are counted from its power of beta1."""
    is_sgd = isinstance(optimiser, torch.optim.SGD)
    for name, leaf in leaves.items():
        state = {theirs: v[ours + name].clone() for ours, theirs in (SGD if is_sgd else ADAM).items()}
        if not is_sgd:
            steps = math.log(float(v["beta1_power"])) / math.log(float(v["beta1"]))
            state["step"] = torch.tensor(float(round(steps)))
        optimiser.state[leaf] = state


def read_state(optimiser: torch.optim.Optimizer, v: Values, leaves: Values) -> dict[str, Tensor]:
    """The counterpart of :func:`load_state`, after a step from weights ``v``."""
    result: dict[str, Tensor] = {}
    for name, leaf in leaves.items():
        state = optimiser.state[leaf]
        if not isinstance(optimiser, torch.optim.SGD):
            result.update({ours + name: state[theirs] for ours, theirs in ADAM.items()})
            steps = float(state["step"])
            result.update({f"{beta}_power": torch.tensor([float(v[beta]) ** steps]) for beta in ("beta1", "beta2")})
        elif float(v["momentum"]) > 0:
            result.update({ours + name: state[theirs] for ours, theirs in SGD.items()})
        else:  # PyTorch leaves its buffer alone then; ours is the gradient
            assert leaf.grad is not None
            result[f"momentum.{name}"] = leaf.grad + float(v["weight_decay"]) * v[name]
    return result
