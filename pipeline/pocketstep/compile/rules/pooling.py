"""Pooling and means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, fx

from pocketstep.compile import operators as op
from pocketstep.compile.rules.table import NHWC_DIMENSION, rank, rule
from pocketstep.compile.trace import aten

if TYPE_CHECKING:
    from pocketstep.compile.walk import Walk


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
