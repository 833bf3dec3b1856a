"""Joining, splitting, cropping and padding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, fx

from pocketstep.compile import operators as op
from pocketstep.compile.graph import EXAMPLE_BATCH, aten
from pocketstep.compile.layouts import Laid
from pocketstep.compile.rules.table import argument, rank, rule

if TYPE_CHECKING:
    from pocketstep.compile.walk import Walk


@rule(aten.cat.default, takes=lambda node: argument(node, 1, 0) % rank(node) != 0)
def concatenate(walk: Walk, node: fx.Node) -> Laid:
    """Along any dimension but the batch, in the order of the first activation."""
    given: Any = node.args[0]
    values = [walk.laid(part) for part in given]
    order = next(value.order for value, part in zip(values, given, strict=True) if not walk.is_constant(part))
    parts = [_part(walk, part, value, order) for value, part in zip(values, given, strict=True)]
    if len(parts) == 1:
        return Laid(parts[0], order)
    return Laid(op.Concatenate.apply(order.index(argument(node, 1, 0) % len(order)), *parts), order)


def _part(walk: Walk, node: fx.Node, value: Laid, order: tuple[int, ...]) -> Tensor:
    return op.frozen(lambda: value.to(order).contiguous()) if walk.is_constant(node) else value.to(order)


def _not_of_batch(node: fx.Node, place: int) -> bool:
    """The first dimension is the batch, unless its size says that it cannot be (queries, keys and values in front)."""
    source, dimension = argument(node, 0, None), argument(node, place, 0)
    return bool(dimension % rank(source) != 0 or source.meta["val"].shape[0] % EXAMPLE_BATCH != 0)


@rule(aten.split_with_sizes.default, takes=lambda node: _not_of_batch(node, 2))
def split(walk: Walk, node: fx.Node) -> tuple[Laid, ...]:
    """Chunks along any dimension but the batch."""
    x, sizes = walk.laid(node.args[0]), node.args[1]
    pieces = op.Split.apply(x.tensor, x.axis(argument(node, 2, 0)), sizes)
    return tuple(Laid(tensor, x.order) for tensor in pieces)


@rule(aten.slice.Tensor, takes=lambda node: _not_of_batch(node, 1))
def cut_out(walk: Walk, node: fx.Node) -> Laid:
    """A range along any dimension but the batch, with any step."""
    x, dimension = walk.laid(node.args[0]), argument(node, 1, 0)
    size = x.shape[dimension % x.rank]
    start, stop, step = slice(argument(node, 2, None), argument(node, 3, None), argument(node, 4, 1)).indices(size)
    if (start, stop, step) == (0, size, 1):
        return x
    return Laid(op.Slice.apply(x.tensor, x.axis(dimension), start, stop, step), x.order)


@rule(aten.select.int, takes=lambda node: _not_of_batch(node, 1))
def select(walk: Walk, node: fx.Node) -> Laid:
    """One index of any dimension but the batch."""
    arguments: Any = node.args
    x, dimension = walk.laid(arguments[0]), arguments[1]
    start = arguments[2] % x.shape[dimension % x.rank]
    return Laid(op.Slice.apply(x.tensor, x.axis(dimension), start, start + 1, 1), x.order).without([dimension])


@rule(aten.constant_pad_nd.default)
def pad(walk: Walk, node: fx.Node) -> Laid:
    """A constant around the last dimensions; negative numbers crop."""
    x, sides = walk.laid(node.args[0]), list(argument(node, 1, None))
    for place in range(len(sides) // 2):
        before, behind = sides[2 * place : 2 * place + 2]
        if before or behind:
            padded = op.Pad.apply(x.tensor, x.axis(-1 - place), before, behind, float(argument(node, 2, 0.0)))
            x = Laid(padded, x.order)
    return x
