"""Pooling, means, sums and maxima."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from torch import fx

from pocketstep.compile import operators as op
from pocketstep.compile.graph import aten
from pocketstep.compile.layouts import MAP, Laid
from pocketstep.compile.rules.table import argument, pair, rank, rule

if TYPE_CHECKING:
    from pocketstep.compile.walk import Walk


def _dimensions(node: fx.Node) -> list[int]:
    given = argument(node, 1, None)
    dimensions = [given] if isinstance(given, int) else given or range(rank(node.args[0]))
    return [dimension % rank(node.args[0]) for dimension in dimensions]


def _summed(walk: Walk, node: fx.Node, keep: bool, number: int) -> Laid:
    x, dimensions = walk.laid(node.args[0]), _dimensions(node)
    total = Laid(op.Sum.apply(x.tensor, [x.axis(d) for d in dimensions], 1.0 / number), x.order)
    return total if keep else total.without(dimensions)


def _count(node: fx.Node) -> int:
    source: Any = node.args[0]
    return prod(source.meta["val"].shape[dimension] for dimension in _dimensions(node))


def _leaves_batch(node: fx.Node) -> bool:
    return 0 not in _dimensions(node)


@rule(aten.mean.dim, takes=_leaves_batch)
def mean(walk: Walk, node: fx.Node) -> Laid:
    """Over any dimensions; global average pooling is (2, 3)."""
    return _summed(walk, node, bool(argument(node, 2, False)), _count(node))


@rule(aten.sum.dim_IntList, takes=_leaves_batch)
def total(walk: Walk, node: fx.Node) -> Laid:
    """Over any dimensions."""
    return _summed(walk, node, bool(argument(node, 2, False)), 1)


@rule(aten.var.correction, takes=_leaves_batch)
def variance(walk: Walk, node: fx.Node) -> Laid:
    """Over any dimensions, the mean taken out first."""
    x, dimensions, count = walk.laid(node.args[0]), _dimensions(node), _count(node)
    correction: Any = node.kwargs.get("correction", 1)
    axes = [x.axis(d) for d in dimensions]
    centred = op.Subtract.apply(x.tensor, op.Sum.apply(x.tensor, axes, 1.0 / count))
    freedom = count - (1 if correction is None else correction)
    result = Laid(op.Sum.apply(op.Power.apply(centred, 2.0), axes, 1.0 / freedom), x.order)
    return result if node.kwargs.get("keepdim", False) else result.without(dimensions)


def _windows(node: fx.Node, x: Laid, padding: Any, dilation: Any = (1, 1)) -> op.Windows:
    kernel, stride = pair(argument(node, 1, None)), argument(node, 2, None)
    size, strides = (x.shape[2], x.shape[3]), pair(stride) if stride else kernel
    return op.Windows(size, kernel, strides, pair(padding), _output(node), pair(dilation))


def _output(node: fx.Node) -> op.Pair:
    value = node.meta["val"]
    shape = value.shape if hasattr(value, "shape") else value[0].shape
    return int(shape[2]), int(shape[3])


@rule(aten.avg_pool2d.default, takes=lambda node: rank(node.args[0]) == 4)
def average_pool(walk: Walk, node: fx.Node) -> Laid:
    """Any windows; whether padding counts; another divisor."""
    x = walk.laid(node.args[0])
    windows = _windows(node, x, argument(node, 3, [0]))
    with_padding, divisor = bool(argument(node, 5, True)), argument(node, 6, None)
    return Laid(op.AveragePool.apply(x.to(MAP), windows, with_padding, divisor), MAP)


@rule(aten.max_pool2d_with_indices.default, takes=lambda node: rank(node.args[0]) == 4)
def max_pool(walk: Walk, node: fx.Node) -> tuple[Laid, ...]:
    """Any windows; the indices are not given."""
    x = walk.laid(node.args[0])
    windows = _windows(node, x, argument(node, 3, [0]), argument(node, 4, [1]))
    return (Laid(op.MaxPool.apply(x.to(MAP), windows), MAP),)


def _has_even_windows(node: fx.Node) -> bool:
    source: Any = node.args[0]
    sizes = zip(source.meta["val"].shape[2:], _output(node), strict=True)
    return rank(source) == 4 and all(size % count == 0 for size, count in sizes)


@rule(aten.adaptive_max_pool2d.default, takes=_has_even_windows)
def adaptive_max_pool(walk: Walk, node: fx.Node) -> tuple[Laid, ...]:
    """To one pixel, or to any size that divides the map's."""
    x, count = walk.laid(node.args[0]), _output(node)
    if count == (1, 1):
        by_row = op.Largest.apply(x.to(MAP), 2, 2, False)
        return (Laid(op.Largest.apply(by_row, 1, 1, False), MAP),)
    kernel = (x.shape[2] // count[0], x.shape[3] // count[1])
    windows = op.Windows((x.shape[2], x.shape[3]), kernel, kernel, (0, 0), count)
    return (Laid(op.MaxPool.apply(x.to(MAP), windows), MAP),)


@rule(aten.amax.default, takes=_leaves_batch)
def largest(walk: Walk, node: fx.Node) -> Laid:
    """Over any dimensions; equal ones share the gradient."""
    return _largest(walk, node, bool(argument(node, 2, False)), shared=True)


@rule(aten.max.dim, takes=_leaves_batch)
def largest_of_one(walk: Walk, node: fx.Node) -> tuple[Laid, ...]:
    """Over one dimension; the indices are not given."""
    return (_largest(walk, node, bool(argument(node, 2, False)), shared=False),)


def _largest(walk: Walk, node: fx.Node, keep: bool, *, shared: bool) -> Laid:
    x, dimensions = walk.laid(node.args[0]), _dimensions(node)
    places = sorted(x.axis(d) for d in dimensions)
    if places != list(range(places[0], places[-1] + 1)):
        x = Laid(x.to((*(d for d in x.order if d not in dimensions), *dimensions)), x.order)
        x = Laid(x.tensor, (*(d for d in x.order if d not in dimensions), *dimensions))
        places = list(range(x.rank - len(dimensions), x.rank))
    result = Laid(op.Largest.apply(x.tensor, places[0], places[-1], shared), x.order)
    return result if keep else result.without(dimensions)
