"""Convolutions, of every role."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, fx

from pocketstep.compile import operators as op
from pocketstep.compile.graph import aten
from pocketstep.compile.rules.table import pair, rule

if TYPE_CHECKING:
    from pocketstep.compile.walk import Walk


@dataclass(frozen=True)
class Geometry:
    """How a kernel moves over a map."""

    kernel: op.Pair
    stride: op.Pair
    padding: op.Pair
    dilation: op.Pair
    groups: int

    @staticmethod
    def of(node: fx.Node) -> Geometry:
        """Of a convolution in the graph."""
        arguments: Any = node.args
        _, weight, _, stride, padding, dilation, _, _, groups = arguments
        height, width = weight.meta["val"].shape[2:]
        return Geometry((height, width), pair(stride), pair(padding), pair(dilation), int(groups))


@rule(aten.convolution.default)
def convolution(walk: Walk, node: fx.Node) -> Tensor:
    """A frozen kernel as it is; a centre tap as ring and product; all taps as one product of columns; or the head."""
    if node is walk.plan.head:
        return _head(walk, node)
    arguments: Any = node.args
    value, geometry = walk.value(arguments[0]), Geometry.of(node)
    parameter = walk.plan.parameters[walk.network.names[arguments[1].name]]
    if parameter.role == "full":
        return _all_taps(walk, node, walk.trainable(parameter), value, geometry)
    fixed = walk.convolution(node, geometry)
    if parameter.role != "centre":
        frozen: Tensor = op.ConstantConvolution.apply(value, fixed)
        return frozen
    trained = walk.trainable(parameter)
    size = _output_size(value, geometry)
    tap = _centre_tap(value, geometry, size)
    walk.tap_inputs[parameter.trained or ""] = tap
    if walk.plan.gradient_filter and can_filter(geometry, size):
        filtered: Tensor = op.FilteredCentre.apply(tap, trained, fixed, walk.plan.input_gradient == "exact")
        return filtered
    if geometry.groups == 1 and walk.plan.input_gradient == "exact":
        decoupled: Tensor = op.Decoupled.apply(value, tap.detach(), trained, fixed)
        return decoupled
    ring = op.ConstantConvolution.apply(value.detach() if walk.plan.input_gradient == "centre" else value, fixed)
    result: Tensor = ring + _tap_product(tap, trained, geometry.groups)
    return result


def _head(walk: Walk, node: fx.Node) -> Tensor:
    """A 1x1 convolution to the logits' maps, as SqueezeNet ends in; its rows are the class slots."""
    value = walk.value(node.args[0])
    logits = op.Matrix.apply(op.rows(value), walk.state["head.weight"])
    shifted: Tensor = op.Shift.apply(logits, walk.state["head.bias"])
    return shifted.reshape(*value.shape[:3], -1)


def _all_taps(walk: Walk, node: fx.Node, trained: Tensor, value: Tensor, geometry: Geometry) -> Tensor:
    columns = op.Columns.apply(value, geometry.kernel, geometry.stride, geometry.padding, geometry.dilation)
    walk.tap_inputs[walk.plan.parameters[walk.network.names[node.all_input_nodes[1].name]].trained or ""] = columns
    count = geometry.kernel[0] * geometry.kernel[1]
    result: Tensor
    if geometry.groups == 1:
        result = op.CentreProduct.apply(columns, trained)
    elif trained.dim() == 2:
        result = op.DepthwiseTaps.apply(columns, trained)
    else:
        result = op.GroupedProduct.apply(columns, trained, count)
    bias = walk.network.constant(node.args[2])
    return result if bias is None else result + bias


def _tap_product(tap: Tensor, trained: Tensor, groups: int) -> Tensor:
    if groups == 1:
        dense: Tensor = op.CentreProduct.apply(tap, trained)
        return dense
    scaled: Tensor = (
        op.CentreScale.apply(tap, trained) if trained.dim() == 1 else op.GroupedProduct.apply(tap, trained, 1)
    )
    return scaled


def _output_size(x: Tensor, geometry: Geometry) -> op.Pair:
    sides = zip(x.shape[1:3], geometry.kernel, geometry.stride, geometry.padding, geometry.dilation, strict=True)
    return pair([(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sides])


def _centre_tap(x: Tensor, geometry: Geometry, size: op.Pair) -> Tensor:
    """What the tap [kh // 2, kw // 2] sees; a window first where the kernel is even or the padding not "same"."""
    sides = zip(geometry.dilation, geometry.kernel, geometry.padding, strict=True)
    offset, stride = pair([d * (k // 2) - p for d, k, p in sides]), geometry.stride
    if offset != (0, 0) or tuple(-(-n // s) for n, s in zip(x.shape[1:3], stride, strict=True)) != size:
        x = op.Window.apply(x, offset, pair([(n - 1) * s + 1 for n, s in zip(size, stride, strict=True)]))
    return x if stride == (1, 1) else op.Subsample.apply(x, stride)


def can_filter(geometry: Geometry, size: Sequence[int]) -> bool:
    """A dense kernel that keeps the map's size, whose sides are even: 2x2 patches of input and output coincide."""
    same = all(
        2 * p == d * (k - 1) for p, d, k in zip(geometry.padding, geometry.dilation, geometry.kernel, strict=True)
    )
    return geometry.groups == 1 and geometry.stride == (1, 1) and same and size[0] % 2 == 0 and size[1] % 2 == 0
