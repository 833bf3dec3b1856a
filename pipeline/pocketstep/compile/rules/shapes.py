"""Views, permutations, and operators that do nothing."""

from __future__ import annotations

import operator
from math import prod
from typing import TYPE_CHECKING, Any

from torch import fx

from pocketstep.compile import operators as op
from pocketstep.compile.graph import EXAMPLE_BATCH, aten, expanded, sized
from pocketstep.compile.layouts import Laid
from pocketstep.compile.rules.table import argument, rule

if TYPE_CHECKING:
    from pocketstep.compile.walk import Walk


def _keeps_batch_first(node: fx.Node) -> bool:
    first = next((size for size in argument(node, 1, None) if size != 1), EXAMPLE_BATCH)
    return bool(first < 0 or first % EXAMPLE_BATCH == 0)


@rule(aten.view.default, aten._unsafe_view.default, takes=_keeps_batch_first)
def view(walk: Walk, node: fx.Node) -> Laid:
    """Any whose first dimension, ones left out, is made of the batch."""
    x, shape = walk.laid(node.args[0]), sized(argument(node, 1, None), walk.batch)
    if -1 in shape:
        shape[shape.index(-1)] = x.tensor.numel() // -prod(shape)
    return x.viewed(shape)


@rule(aten.clone.default, aten.alias.default, aten.detach.default)
def identity(walk: Walk, node: fx.Node) -> Laid:
    """Nothing: dropout in eval mode and copies end here."""
    return walk.laid(node.args[0])


@rule(aten.permute.default)
def permute(walk: Walk, node: fx.Node) -> Laid:
    """Another order of the same value."""
    return walk.laid(node.args[0]).permuted(argument(node, 1, None))


@rule(aten.squeeze.dims)
def squeeze(walk: Walk, node: fx.Node) -> Laid:
    """Drops dimensions of size 1; others stay, as ATen has it."""
    x, dimensions = walk.laid(node.args[0]), argument(node, 1, None)
    return x.without([dimension for dimension in dimensions if x.shape[dimension % x.rank] == 1])


@rule(aten.unsqueeze.default)
def unsqueeze(walk: Walk, node: fx.Node) -> Laid:
    """A dimension of size 1 more."""
    x, place = walk.laid(node.args[0]), argument(node, 1, None)
    shape = list(x.shape)
    shape.insert(place % (x.rank + 1), 1)
    return x.viewed(shape)


@rule(aten.expand.default)
def expand(walk: Walk, node: fx.Node) -> Laid:
    """Repeats along dimensions of size 1; new ones come first."""
    x = walk.laid(node.args[0])
    sizes = expanded(x.shape, argument(node, 1, None), walk.batch)
    added = len(sizes) - x.rank
    x = x.viewed([*[1] * added, *x.shape]) if added else x
    return Laid(op.Repeat.apply(x.tensor, [sizes[dimension] for dimension in x.order]), x.order)


@rule(aten.repeat.default, takes=lambda node: bool(argument(node, 1, None)[0] == 1))
def repeat(walk: Walk, node: fx.Node) -> Laid:
    """Copies one behind the other; not of the batch."""
    times, x = argument(node, 1, None), walk.laid(node.args[0])
    x = x.viewed([*[1] * (len(times) - x.rank), *x.shape])
    for dimension, count in enumerate(times):
        if count > 1:
            x = Laid(op.Concatenate.apply(x.axis(dimension), *[x.tensor] * count), x.order)
    return x


@rule(operator.getitem)
def piece(walk: Walk, node: fx.Node) -> Laid:
    """One of several results."""
    source: Any = node.args[0]
    index: Any = node.args[1]
    values: Any = walk.values[source]
    result: Laid = values[index]
    return result
