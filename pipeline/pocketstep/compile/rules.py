"""One table: ATen operator -> what it is in NHWC. One place to add an operator.

A rule takes the walk and the node and returns the value, (B, H, W, C) for what ATen sees as (B, C, H, W). An operator
without a rule may stand in the frozen prefix, where nothing is differentiated; behind the cut it is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, fx

from pocketstep.compile import operators as op
from pocketstep.compile.trace import aten, sized

if TYPE_CHECKING:
    from pocketstep.compile.walk import Walk

Rule = Callable[["Walk", fx.Node], Tensor]
RULES: dict[Any, Rule] = {}
R = TypeVar("R", bound=Rule)

NHWC_DIMENSION = {0: 0, 1: 3, 2: 1, 3: 2}


def rule(*targets: Any) -> Callable[[R], R]:
    """Enters a rule into the table for each of the ATen operators."""

    def enter(function: R) -> R:
        RULES.update(dict.fromkeys(targets, function))
        return function

    return enter


def rule_for(node: fx.Node) -> Rule | None:
    """The operator's rule; None where the table has none, or only one for another form of the operator."""
    if node.target is aten.convolution.default and node.args[6]:  # transposed
        return None
    if node.target is aten.hardtanh.default and (len(node.args) < 3 or node.args[1] != 0):
        return None
    return RULES.get(node.target)


def rank(node: object) -> int:
    """The rank that ATen sees: the value itself may lie in NHWC."""
    return int(node.meta["val"].dim()) if isinstance(node, fx.Node) else 0


def _pair(values: Sequence[int]) -> op.Pair:
    return (values[0], values[-1])


@rule(aten.convolution.default)
def convolution(walk: Walk, node: fx.Node) -> Tensor:
    """A frozen kernel as it is; a centre tap as ring and product; all taps as one product of columns."""
    arguments: Any = node.args
    x, weight, _, stride, padding, dilation, _, _, groups = arguments
    value = walk.value(x)
    parameter = walk.plan.parameters[walk.network.names[weight.name]]
    geometry = _pair(stride), _pair(padding)
    if parameter.role == "full":
        height, width = parameter.shape[2:]
        columns = op.Columns.apply(value, (height, width), *geometry)
        bias = walk.network.constant(node.args[2])
        result: Tensor = op.CentreProduct.apply(columns, walk.trainable(parameter))
        return result if bias is None else result + bias
    fixed = walk.convolution(node, *geometry, _pair(dilation), int(groups))
    result = op.ConstantConvolution.apply(value, fixed)
    if parameter.role == "centre":
        tap = _centre_tap(value, parameter.shape[2:], *geometry, _pair(dilation), result)
        trained = walk.trainable(parameter)
        centre = op.CentreScale if trained.dim() == 1 else op.CentreProduct
        result = result + centre.apply(tap, trained)
    return result


def _centre_tap(
    x: Tensor, kernel: Sequence[int], stride: op.Pair, padding: op.Pair, dilation: op.Pair, result: Tensor
) -> Tensor:
    """What the tap [kh // 2, kw // 2] sees; a window first where the kernel is even or the padding not "same"."""
    offset = _pair([d * (k // 2) - p for d, k, p in zip(dilation, kernel, padding, strict=True)])
    size = (result.shape[1], result.shape[2])
    if offset != (0, 0) or tuple(-(-n // s) for n, s in zip(x.shape[1:3], stride, strict=True)) != size:
        x = op.Window.apply(x, offset, _pair([(n - 1) * s + 1 for n, s in zip(size, stride, strict=True)]))
    return x if stride == (1, 1) else op.Subsample.apply(x, stride)


@rule(aten.relu.default, aten.hardtanh.default)
def clip(walk: Walk, node: fx.Node) -> Tensor:
    """ReLU, and ReLU6 as the hard tanh from zero."""
    arguments: Any = node.args
    top = float(arguments[2]) if len(arguments) > 2 else None
    result: Tensor = op.Clip.apply(walk.value(node.args[0]), top)
    return result


@rule(aten.add.Tensor)
def add(walk: Walk, node: fx.Node) -> Tensor:
    """A residual sum, or a shift by a constant a channel."""
    first, second = (walk.operand(argument, rank(node)) for argument in node.args[:2])
    alpha: Any = node.kwargs.get("alpha", 1)
    total: Tensor = first + (second if alpha == 1 else second * alpha)
    return total


@rule(aten.mul.Tensor)
def multiply(walk: Walk, node: fx.Node) -> Tensor:
    """A gate, or a scale by a constant a channel."""
    first, second = (walk.operand(argument, rank(node)) for argument in node.args[:2])
    gated: Tensor = first * second
    return gated


@rule(aten.mean.dim)
def mean(walk: Walk, node: fx.Node) -> Tensor:
    """Over any dimensions; global average pooling is (2, 3)."""
    arguments: Any = node.args
    x, dims = arguments[:2]
    keep = bool(arguments[2]) if len(arguments) > 2 else False
    value = walk.value(x)
    if rank(x) != 4:
        return value.mean(dims, keepdim=keep)
    nhwc = sorted(NHWC_DIMENSION[d % 4] for d in dims)
    if nhwc != [1, 2]:
        return value.mean(nhwc, keepdim=True) if keep else op.to_nchw(value).mean(dims)
    pooled: Tensor = op.Pool.apply(value)
    return pooled.reshape(value.shape[0], 1, 1, value.shape[3]) if keep else pooled


@rule(aten.view.default, aten._unsafe_view.default)
def view(walk: Walk, node: fx.Node) -> Tensor:
    """Any; a feature map goes back to NCHW first, unless it is one pixel that is flattened: the same order."""
    arguments: Any = node.args
    x, shape = arguments[:2]
    value = walk.value(x)
    if rank(x) == 4 and (value.shape[1] * value.shape[2] > 1 or rank(node) != 2):
        value = op.to_nchw(value)
    result = value.reshape(sized(shape, walk.batch))
    return op.to_nhwc(result) if rank(node) == 4 else result


@rule(aten.clone.default, aten.alias.default, aten.detach.default)
def identity(walk: Walk, node: fx.Node) -> Tensor:
    """Nothing: dropout in eval mode and copies end here."""
    return walk.value(node.args[0])


@rule(aten.addmm.default)
def linear(walk: Walk, node: fx.Node) -> Tensor:
    """A linear layer; the head's rows are trained, with room for spare classes."""
    arguments: Any = node.args
    bias, x, transposed = arguments[:3]
    weight_node = transposed.args[0]
    value = walk.value(x)
    if node is walk.plan.head:
        logits = op.Matrix.apply(value, walk.state["head.weight"])
        shifted: Tensor = op.Shift.apply(logits, walk.state["head.bias"])
        return shifted
    return torch.nn.functional.linear(value, walk.constant(weight_node), walk.constant(bias))


@rule(aten.permute.default)
def permute(walk: Walk, node: fx.Node) -> Tensor:
    """Of an activation, or the transpose of a constant in front of a product; the linear rule looks through that."""
    arguments: Any = node.args
    value = walk.value(arguments[0])
    if rank(node) != 4:
        return value.permute(arguments[1])
    return op.to_nhwc(op.to_nchw(value).permute(arguments[1]))
