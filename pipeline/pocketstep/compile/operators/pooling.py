"""Pooling."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pocketstep.compile.operators.layout import aten, frozen, to_nchw, to_nhwc


class Pool(torch.autograd.Function):
    """Global average pooling (B, H, W, C) to (B, C): a product with a constant row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        b, h, w, c = ctx.size = x.shape
        share = frozen(lambda: torch.full((b, 1, h * w), 1.0 / (h * w)))
        return torch.bmm(share, x.reshape(b, h * w, c)).reshape(b, c)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        b, h, w, c = ctx.size
        return g.reshape(b, 1, 1, c) * frozen(lambda: torch.full((1, h, w, 1), 1.0 / (h * w)))


def grid_pool(x: Tensor, cells: int) -> Tensor:
    """Average over a grid of cells x cells: (B, H, W, C) to (B, cells * cells * C); both sides divide by ``cells``."""
    size = [x.shape[1] // cells, x.shape[2] // cells]
    return to_nhwc(aten.avg_pool2d(to_nchw(x), size, size)).reshape(x.shape[0], -1)
