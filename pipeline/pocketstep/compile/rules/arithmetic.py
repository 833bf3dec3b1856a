"""Elementwise operators of two tensors, or of a tensor and a number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, fx

from pocketstep.compile import operators as op
from pocketstep.compile.graph import aten
from pocketstep.compile.layouts import Laid, Order
from pocketstep.compile.rules.table import rank, rule

if TYPE_CHECKING:
    from pocketstep.compile.walk import Walk

Number = int | float


def operands(walk: Walk, node: fx.Node) -> tuple[Tensor | float, Tensor | float, Order]:
    """Both operands in one order: that of the larger activation. Constants are turned to it while tracing."""
    given = [walk.laid(a) if isinstance(a, fx.Node) else float(a) for a in node.args[:2]]  # type: ignore[arg-type]
    constant = [isinstance(a, fx.Node) and walk.is_constant(a) for a in node.args[:2]]
    leaders = [v for v, fixed in zip(given, constant, strict=True) if isinstance(v, Laid) and not fixed]
    leader = max(leaders, key=lambda value: (value.rank, value.tensor.numel()))
    added = rank(node) - leader.rank
    order = (*range(added), *(dimension + added for dimension in leader.order))
    first, second = (_operand(v, fixed, order) for v, fixed in zip(given, constant, strict=True))
    return first, second, order


def _operand(value: Laid | float, fixed: bool, order: Order) -> Tensor | float:
    if not isinstance(value, Laid):
        return value
    if not fixed:
        return value.aligned(order)
    tensor = op.frozen(lambda: value.aligned(order).contiguous())
    return op.frozen(lambda: tensor.reshape(-1)) if tensor.numel() == tensor.shape[-1:].numel() else tensor


@rule(aten.add.Tensor, aten.add.Scalar)
def add(walk: Walk, node: fx.Node) -> Laid:
    """A residual sum, or a shift by a constant."""
    first, second, order = operands(walk, node)
    return Laid(_sum(first, _scaled(node, second)), order)


@rule(aten.sub.Tensor, aten.sub.Scalar)
def subtract(walk: Walk, node: fx.Node) -> Laid:
    """A difference."""
    first, second, order = operands(walk, node)
    second = _scaled(node, second)
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return Laid(op.Subtract.apply(first, second), order)
    if isinstance(first, Tensor):
        return Laid(first - second, order)
    return Laid(-second + first, order)


@rule(aten.mul.Tensor, aten.mul.Scalar)
def multiply(walk: Walk, node: fx.Node) -> Laid:
    """A gate, or a scale by a constant."""
    first, second, order = operands(walk, node)
    return Laid(_product(first, second), order)


@rule(aten.div.Tensor, aten.div.Scalar, takes=lambda node: node.kwargs.get("rounding_mode") is None)
def divide(walk: Walk, node: fx.Node) -> Laid:
    """A quotient; by a constant, a product with its inverse."""
    first, second, order = operands(walk, node)
    divisor = second
    if not isinstance(divisor, Tensor) or walk.is_constant(node.args[1]):
        return Laid(_product(first, op.frozen(lambda: 1.0 / divisor)), order)  # type: ignore[arg-type,return-value]
    if not isinstance(first, Tensor):
        return Laid(op.Power.apply(divisor, -1.0) * first, order)
    return Laid(op.Divide.apply(first, divisor), order)


@rule(aten.maximum.default)
def larger(walk: Walk, node: fx.Node) -> Laid:
    """The larger of two tensors (maxout)."""
    first, second, order = operands(walk, node)
    return Laid(op.Larger.apply(first, second), order)


@rule(aten.minimum.default)
def smaller(walk: Walk, node: fx.Node) -> Laid:
    """The smaller of two tensors."""
    first, second, order = operands(walk, node)
    largest: Tensor = op.Larger.apply(-first, -second)
    return Laid(-largest, order)


def _scaled(node: fx.Node, value: Tensor | float) -> Any:
    alpha: Any = node.kwargs.get("alpha", node.args[2] if len(node.args) > 2 else 1)
    return value if alpha == 1 else value * alpha


def _sum(first: Tensor | float, second: Tensor | float) -> Tensor:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        added: Tensor = op.Add.apply(first, second)
        return added
    return first + second  # type: ignore[return-value]


def _product(first: Tensor | float, second: Tensor | float) -> Tensor:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        product: Tensor = op.Multiply.apply(first, second)
        return product
    return first * second  # type: ignore[return-value]
