"""The oracle's convolutions where the plan asks for a cheaper gradient than the exact one: PyTorch's own operators.

The value is the exact one; the gradient is that of a simpler function, added with its own value taken away.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, fx

from pocketstep.compile.graph import Network
from pocketstep.plan import Plan

Operator = Callable[..., Tensor]


def surrogates(network: Network, plan: Plan, weights: Mapping[str, Tensor]) -> dict[fx.Node, Operator]:
    """The trained centres whose gradient is not the exact one; empty for an exact plan.

    Args:
        network, plan: what is trained.
        weights: qualified name -> whole kernel with the trained centre folded in, differentiable.
    """
    if plan.input_gradient == "exact" and not plan.gradient_filter:
        return {}
    chosen: dict[fx.Node, Operator] = {}
    for node in network.operators:
        name = next((n for n, _ in network.weights(node)), "")
        if plan.role(name) == "centre" and name in weights:
            chosen[node] = _filtered(plan) if plan.gradient_filter and _halves(node) else _centre_only(plan)
    return chosen


def _exact(arguments: tuple[Any, ...]) -> Tensor:
    x, kernel, bias, stride, padding, dilation, _, _, groups = arguments
    return F.conv2d(x, kernel, bias, stride, padding, dilation, groups)


def _gradient_of(value: Tensor) -> Tensor:
    return value - value.detach()


def _centre_only(plan: Plan) -> Operator:
    def operator(*arguments: Any) -> Tensor:
        if plan.input_gradient == "exact":
            return _exact(arguments)
        x, kernel, *rest = arguments
        value = _exact((x.detach(), kernel, *rest))
        ring = kernel.detach().clone()
        ring[:, :, kernel.shape[2] // 2, kernel.shape[3] // 2] = 0
        return value + _gradient_of(_exact((x, kernel.detach() - ring, None, *rest[1:])))

    return operator


def _filtered(plan: Plan) -> Operator:
    def operator(*arguments: Any) -> Tensor:
        x, kernel = arguments[:2]
        value = _exact(arguments).detach()
        centre = kernel[:, :, kernel.shape[2] // 2, kernel.shape[3] // 2, None, None]
        means = F.avg_pool2d(x, 2)
        small = F.conv2d(means, centre)
        if plan.input_gradient == "exact":
            ring = (kernel.sum((2, 3), keepdim=True) - centre).detach()
            small = small + F.conv2d(means, ring)
        return value + _gradient_of(F.interpolate(small, scale_factor=2, mode="nearest"))

    return operator


def _halves(node: fx.Node) -> bool:
    """A dense kernel that keeps the map's size, whose sides are even."""
    arguments: Any = node.args
    x, _, _, stride, _, _, _, _, groups = arguments
    size, before = node.meta["val"].shape[2:], x.meta["val"].shape[2:]
    return groups == 1 and set(stride) == {1} and size == before and size[0] % 2 == 0 and size[1] % 2 == 0
