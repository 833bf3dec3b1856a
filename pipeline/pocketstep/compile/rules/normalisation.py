"""Layer norm, group norm and instance norm."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from pocketstep.compile import operators as op
from pocketstep.compile.graph import aten
from pocketstep.compile.layouts import Laid, Order
from pocketstep.compile.rules.table import rank, rule

if TYPE_CHECKING:
    from pocketstep.compile.walk import Walk


@rule(aten.native_layer_norm.default)
def layer_norm(walk: Walk, node: fx.Node) -> tuple[Laid, ...]:
    """Over the last dimensions, which come last; channels of a map that the network permuted lie there already."""
    arguments: Any = node.args
    x, shape, weight, bias, eps = arguments[:5]
    value = walk.laid(x)
    kept = value.rank - len(shape)
    order = (*(d for d in value.order if d < kept), *range(kept, value.rank))
    tensor = value.to(order)
    normal = op.LayerNorm.apply(tensor.reshape(-1, prod(shape)), float(eps)).reshape(tensor.shape)
    return (Laid(_affine(walk, normal, weight, bias, tuple(shape)), order),)


@rule(aten.native_group_norm.default, takes=lambda node: rank(node.args[0]) > 1)
def group_norm(walk: Walk, node: fx.Node) -> tuple[Laid, ...]:
    """Over groups of channels and all pixels."""
    arguments: Any = node.args
    groups, eps = arguments[6:8]
    return (_by_groups(walk, arguments[0], arguments[1], arguments[2], int(groups), float(eps)),)


@rule(aten.instance_norm.default)
def instance_norm(walk: Walk, node: fx.Node) -> Laid:
    """Every channel of a sample by itself; or, with running statistics, a scale and a shift."""
    arguments: Any = node.args
    x, weight, bias, running_mean, running_variance, own_statistics, _, eps = arguments[:8]
    if own_statistics:
        return _by_groups(walk, x, weight, bias, int(x.meta["val"].shape[1]), float(eps))
    mean, variance = walk.constant(running_mean), walk.constant(running_variance)
    value = walk.laid(x)
    order: Order = (0, *range(2, value.rank), 1)
    scale = op.frozen(lambda: torch.rsqrt(variance + eps))
    return Laid(_affine(walk, (value.to(order) - mean) * scale, weight, bias, (-1,)), order)


def _by_groups(walk: Walk, x: fx.Node, weight: Any, bias: Any, groups: int, eps: float) -> Laid:
    value = walk.laid(x)
    order: Order = (0, *range(2, value.rank), 1)
    tensor = value.to(order)
    flat = tensor.reshape(tensor.shape[0], -1, tensor.shape[-1])
    normal = op.GroupNorm.apply(flat, groups, eps).reshape(tensor.shape)
    return Laid(_affine(walk, normal, weight, bias, (-1,)), order)


def _affine(walk: Walk, x: Tensor, weight: Any, bias: Any, shape: tuple[int, ...]) -> Tensor:
    """Constants of the last axes."""
    if weight is not None:
        x = x * walk.constant(weight).reshape(shape)
    return x if bias is None else x + walk.constant(bias).reshape(shape)
