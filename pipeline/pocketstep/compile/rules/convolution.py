"""Convolutions, of every role."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, fx

from pocketstep.compile import operators as op
from pocketstep.compile.rules.table import pair, rule
from pocketstep.compile.trace import aten

if TYPE_CHECKING:
    from pocketstep.compile.walk import Walk


@rule(aten.convolution.default)
def convolution(walk: Walk, node: fx.Node) -> Tensor:
    """A frozen kernel as it is; a centre tap as ring and product; all taps as one product of columns."""
    arguments: Any = node.args
    x, weight, _, stride, padding, dilation, _, _, groups = arguments
    value = walk.value(x)
    parameter = walk.plan.parameters[walk.network.names[weight.name]]
    geometry = pair(stride), pair(padding)
    if parameter.role == "full":
        height, width = parameter.shape[2:]
        columns = op.Columns.apply(value, (height, width), *geometry)
        bias = walk.network.constant(node.args[2])
        result: Tensor = op.CentreProduct.apply(columns, walk.trainable(parameter))
        return result if bias is None else result + bias
    fixed = walk.convolution(node, *geometry, pair(dilation), int(groups))
    result = op.ConstantConvolution.apply(value, fixed)
    if parameter.role == "centre":
        tap = _centre_tap(value, parameter.shape[2:], *geometry, pair(dilation), result)
        trained = walk.trainable(parameter)
        centre = op.CentreScale if trained.dim() == 1 else op.CentreProduct
        result = result + centre.apply(tap, trained)
    return result


def _centre_tap(
    x: Tensor, kernel: Sequence[int], stride: op.Pair, padding: op.Pair, dilation: op.Pair, result: Tensor
) -> Tensor:
    """What the tap [kh // 2, kw // 2] sees; a window first where the kernel is even or the padding not "same"."""
    offset = pair([d * (k // 2) - p for d, k, p in zip(dilation, kernel, padding, strict=True)])
    size = (result.shape[1], result.shape[2])
    if offset != (0, 0) or tuple(-(-n // s) for n, s in zip(x.shape[1:3], stride, strict=True)) != size:
        x = op.Window.apply(x, offset, pair([(n - 1) * s + 1 for n, s in zip(size, stride, strict=True)]))
    return x if stride == (1, 1) else op.Subsample.apply(x, stride)
