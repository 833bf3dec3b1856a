"""Linear layers, products, and convolutions of sequences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, fx

from pocketstep.compile import operators as op
from pocketstep.compile.graph import aten
from pocketstep.compile.layouts import Laid, Order
from pocketstep.compile.rules.table import SEQUENCE, rule

if TYPE_CHECKING:
    from pocketstep.compile.walk import Walk


@rule(aten.addmm.default, aten.mm.default)
def linear(walk: Walk, node: fx.Node) -> Tensor:
    """A linear layer; the head's rows are trained, with room for spare classes."""
    arguments: Any = node.args
    x, factor = arguments[-2:]
    value = walk.value(x)
    result: Tensor
    if node is walk.plan.head:
        logits = op.Matrix.apply(value, walk.state["head.weight"])
        result = op.Shift.apply(logits, walk.state["head.bias"])
        return result
    bias = arguments[0] if node.target is aten.addmm.default else None
    if walk.is_constant(factor):
        result = _frozen(walk, node, value, factor, bias)
    else:
        second = walk.value(factor)
        products = op.BatchProduct.apply(value.reshape(1, *value.shape), second.reshape(1, *second.shape))
        result = products.reshape(products.shape[1:])
    return result if bias is None or walk.is_constant(bias) else op.Add.apply(result, walk.value(bias))


@rule(aten.bmm.default)
def batch_product(walk: Walk, node: fx.Node) -> Tensor:
    """Of two activations, as in attention; or of one with the same constant throughout: a linear layer."""
    first, second = walk.value(node.args[0]), walk.value(node.args[1])
    result: Tensor
    if walk.is_constant(node.args[1]) and _is_one_matrix(second):
        result = _frozen(walk, node, op.rows(first), node.args[1], None).reshape(*first.shape[:2], -1)
    else:
        result = op.BatchProduct.apply(first, second)
    return result


@rule(SEQUENCE)
def sequence_convolution(walk: Walk, node: fx.Node) -> Laid:
    """(B, I, L) to (B, O, L') with a frozen kernel, as a map of one row (efficient channel attention)."""
    arguments: Any = node.args
    x, weight, bias, stride, padding, dilation, _, _, groups = arguments
    if node.name not in walk.kernels.made:
        kernel = op.frozen(lambda: walk.constant(weight).unsqueeze(2))
        geometry = (1, stride[0]), (0, padding[0]), (1, dilation[0])
        walk.kernels.made[node.name] = op.Convolution(kernel, walk.network.constant(bias), *geometry, int(groups))
    order: Order = (0, 2, 1)
    rows = walk.laid(x).to(order)
    result = op.ConstantConvolution.apply(rows.reshape(rows.shape[0], 1, *rows.shape[1:]), walk.kernels.made[node.name])
    return Laid(result.reshape(result.shape[0], *result.shape[2:]), order)


def _frozen(walk: Walk, node: fx.Node, x: Tensor, factor: Any, bias: Any) -> Tensor:
    """A product (m, k) x (k, n) with a constant, as a 1x1 convolution: its gradient shares the constant."""
    if node.name not in walk.kernels.made:
        kernel = op.frozen(lambda: _rows(walk, factor)[:, :, None, None])
        shift = walk.constant(bias) if walk.is_constant(bias) else None
        walk.kernels.made[node.name] = op.Convolution(kernel, shift, (1, 1), (0, 0), (1, 1), 1)
    result: Tensor = op.ConstantConvolution.apply(x.reshape(-1, 1, 1, x.shape[1]), walk.kernels.made[node.name])
    return result.reshape(x.shape[0], -1)


def _rows(walk: Walk, factor: fx.Node) -> Tensor:
    """(n, k) of a constant (k, n), or of one (b, k, n) that is the same throughout."""
    if factor.target is aten.permute.default and len(factor.meta["val"].shape) == 2:
        return walk.constant(factor.args[0])
    matrix = walk.constant(factor)
    return (matrix if matrix.dim() == 2 else matrix[0]).t().contiguous()


def _is_one_matrix(batch: Tensor) -> bool:
    """Whether a constant (b, k, n) holds the same (k, n) throughout."""
    return bool(op.frozen(lambda: (batch == batch[:1]).all()))
