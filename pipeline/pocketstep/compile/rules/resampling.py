"""Operators that mix rows and columns of a map, each by fixed weights."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from pocketstep.compile import operators as op
from pocketstep.compile.graph import aten
from pocketstep.compile.layouts import MAP, Laid
from pocketstep.compile.rules.table import rank, rule

if TYPE_CHECKING:
    from pocketstep.compile.walk import Walk


@rule(
    aten._adaptive_avg_pool2d.default,
    aten.upsample_nearest2d.vec,
    aten._upsample_nearest_exact2d.vec,
    aten.upsample_bilinear2d.vec,
    aten.upsample_bicubic2d.vec,
    aten._upsample_bilinear2d_aa.vec,
    aten._upsample_bicubic2d_aa.vec,
    aten.reflection_pad2d.default,
    aten.replication_pad2d.default,
    takes=lambda node: rank(node.args[0]) == 4,
)
def resample(walk: Walk, node: fx.Node) -> Laid:
    """Interpolation, adaptive average pooling with windows of any sizes, frames that reflect or repeat the edge."""
    x = walk.laid(node.args[0])
    size, new = x.shape[2:], node.meta["val"].shape[2:]
    if node.target is aten._adaptive_avg_pool2d.default and all(n % m == 0 for n, m in zip(size, new, strict=True)):
        kernel = (size[0] // new[0], size[1] // new[1])
        windows = op.Windows((size[0], size[1]), kernel, kernel, (0, 0), (new[0], new[1]))
        return Laid(op.AveragePool.apply(x.to(MAP), windows, True, None), MAP)
    rows, columns = (op.frozen(partial(_weights, node, size, side)) for side in (0, 1))
    return Laid(op.Resample.apply(x.to(MAP), rows, columns), MAP)


def _weights(node: fx.Node, size: tuple[int, ...], side: int) -> Tensor:
    """(new, old): the operator itself, asked what it makes of every row, or column, that is one where others are zero.

    The weights of each result sum to one, so that constant columns stay out of what rows become.
    """
    target: Any = node.target
    old = size[side]
    shape = (1, old, old, 1) if side == 0 else (1, old, 1, old)
    probe = torch.eye(old, dtype=torch.float64).reshape(shape).expand(1, old, *size)
    answer = target(probe, *node.args[1:], **node.kwargs)[0]
    weights: Tensor = answer[:, :, 0] if side == 0 else answer[:, 0, :]
    return weights.t().to(torch.get_default_dtype()).contiguous()
