"""Views, permutations, and operators that do nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, fx

from pocketstep.compile import operators as op
from pocketstep.compile.rules.table import rank, rule
from pocketstep.compile.trace import aten, sized

if TYPE_CHECKING:
    from pocketstep.compile.walk import Walk


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


@rule(aten.permute.default)
def permute(walk: Walk, node: fx.Node) -> Tensor:
    """Of an activation, or the transpose of a constant in front of a product; the linear rule looks through that."""
    arguments: Any = node.args
    value = walk.value(arguments[0])
    if rank(node) != 4:
        return value.permute(arguments[1])
    return op.to_nhwc(op.to_nchw(value).permute(arguments[1]))
