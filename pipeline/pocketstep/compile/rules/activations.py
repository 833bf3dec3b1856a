"""Activations and other functions of one tensor, element by element."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor, fx

from pocketstep.compile import operators as op
from pocketstep.compile.graph import aten
from pocketstep.compile.layouts import Laid
from pocketstep.compile.rules.table import argument, rule

if TYPE_CHECKING:
    from pocketstep.compile.walk import Walk


def pointwise(walk: Walk, node: fx.Node, function: Callable[..., Any], *constants: Any) -> Laid:
    """The function of a value, which lies as the value does."""
    x = walk.laid(node.args[0])
    return Laid(function(x.tensor, *constants), x.order)


PLAIN: dict[Any, Callable[..., Any]] = {
    aten.sigmoid.default: op.Sigmoid.apply,
    aten.hardsigmoid.default: op.HardSigmoid.apply,
    aten.hardswish.default: op.HardSwish.apply,
    aten.silu.default: op.Silu.apply,
    aten.tanh.default: op.Tanh.apply,
    aten.mish.default: op.Mish.apply,
    aten.abs.default: op.Absolute.apply,
    aten.exp.default: op.Exponential.apply,
    aten.log.default: op.Logarithm.apply,
    aten.neg.default: lambda x: -x,
    aten.sqrt.default: lambda x: op.Power.apply(x, 0.5),
    aten.rsqrt.default: lambda x: op.Power.apply(x, -0.5),
    aten.reciprocal.default: lambda x: op.Power.apply(x, -1.0),
}


@rule(*PLAIN)
def plain(walk: Walk, node: fx.Node) -> Laid:
    """Functions without settings."""
    return pointwise(walk, node, PLAIN[node.target])


@rule(aten.relu.default, aten.hardtanh.default)
def clip(walk: Walk, node: fx.Node) -> Laid:
    """ReLU, ReLU6 (a hard tanh from 0 to 6) and every other hard tanh."""
    if node.target is aten.relu.default:
        return pointwise(walk, node, op.Clip.apply, 0.0, None)
    return pointwise(walk, node, op.Clip.apply, float(argument(node, 1, -1)), float(argument(node, 2, 1)))


@rule(aten.clamp.default)
def clamp(walk: Walk, node: fx.Node) -> Laid:
    """Between numbers."""
    low, high = (node.kwargs.get(name, argument(node, place, None)) for place, name in ((1, "min"), (2, "max")))
    return pointwise(walk, node, op.Clip.apply, *(None if bound is None else float(bound) for bound in (low, high)))


@rule(aten.leaky_relu.default)
def leaky_relu(walk: Walk, node: fx.Node) -> Laid:
    """With its slope."""
    return pointwise(walk, node, op.LeakyRelu.apply, float(argument(node, 1, 0.01)))


@rule(aten.prelu.default)
def prelu(walk: Walk, node: fx.Node) -> Laid:
    """A slope for all channels, or one a channel."""
    x, slopes = walk.laid(node.args[0]), walk.laid(node.args[1]).tensor
    shape = [1] * x.rank
    shape[x.axis(1 if x.rank > 1 else 0)] = slopes.numel()
    return Laid(op.SlopedRelu.apply(x.tensor, slopes.reshape(shape)), x.order)


@rule(aten.gelu.default)
def gelu(walk: Walk, node: fx.Node) -> Laid:
    """Exact, or with tanh."""
    return pointwise(walk, node, op.Gelu.apply, node.kwargs.get("approximate", argument(node, 1, "none")))


@rule(aten.elu.default)
def elu(walk: Walk, node: fx.Node) -> Laid:
    """ELU, and SELU as ATen sees it."""
    settings = (float(argument(node, place, 1.0)) for place in (1, 2, 3))
    return pointwise(walk, node, op.Elu.apply, *settings)


@rule(aten.celu.default)
def celu(walk: Walk, node: fx.Node) -> Laid:
    """max(x, 0) + alpha (exp(x / alpha) - 1) where negative (Barron 2017)."""
    alpha = float(argument(node, 1, 1.0))
    return pointwise(walk, node, op.Elu.apply, alpha, 1.0, 1.0 / alpha)


@rule(aten.softplus.default)
def softplus(walk: Walk, node: fx.Node) -> Laid:
    """With its sharpness; PyTorch's threshold changes nothing that fp32 shows."""
    return pointwise(walk, node, op.Softplus.apply, float(argument(node, 1, 1.0)))


@rule(aten.pow.Tensor_Scalar)
def power(walk: Walk, node: fx.Node) -> Laid:
    """A constant power."""
    return pointwise(walk, node, op.Power.apply, float(argument(node, 1, None)))


@rule(aten._softmax.default, aten._safe_softmax.default)
def softmax(walk: Walk, node: fx.Node) -> Laid:
    """Over one dimension, which comes last first."""
    x = walk.laid(node.args[0])
    dimension = argument(node, 1, None) % x.rank
    order = (*(d for d in x.order if d != dimension), dimension)
    result: Tensor = op.Softmax.apply(x.to(order))
    return Laid(result, order)
