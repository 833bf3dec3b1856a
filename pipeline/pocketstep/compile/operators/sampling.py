"""Taking every n-th pixel, windows and shifts of maps, and their transposes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pocketstep.compile.operators.layout import Pair, framed, joined


def subsample(x: Tensor, stride: Pair) -> Tensor:
    """Every ``stride``-th row and column of (B, H, W, C), by reshape and slices from zero; padded where it must."""
    if stride == (1, 1):
        return x
    b, h, w, c = x.shape
    sh, sw = stride
    out_h, out_w = -(-h // sh), -(-w // sw)
    x = framed(x, 0, out_h * sh - h, 0, out_w * sw - w)
    x = x.reshape(b * out_h, sh * out_w * sw * c)[:, : out_w * sw * c]
    return x.reshape(b * out_h * out_w, sw * c)[:, :c].reshape(b, out_h, out_w, c)


def zero_stuff(g: Tensor, stride: Pair, size: Pair) -> Tensor:
    """The transpose of :func:`subsample`: zeros between rows and columns, ``size`` in all; rank <= 4 throughout."""
    b, h, w, c = g.shape
    sh, sw = stride
    full = F.pad(g.reshape(b * h, 1, w, c), (0, (sw - 1) * c, 0, 0, 0, sh - 1)).reshape(b, h * sh, w * sw, c)
    return framed(full, 0, size[0] - h * sh, 0, size[1] - w * sw)


class Subsample(torch.autograd.Function):
    """(B, H, W, C) to every ``stride``-th row and column; where a strided kernel's centre tap looks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, stride: Pair) -> Tensor:
        ctx.stride, ctx.size = stride, (x.shape[1], x.shape[2])
        return subsample(x, stride)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return zero_stuff(g, ctx.stride, ctx.size), None


class Window(torch.autograd.Function):
    """(B, H, W, C) to the ``size`` rows and columns from ``offset`` on, zeros outside; what a kernel's tap sees."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, offset: Pair, size: Pair) -> Tensor:
        ctx.offset, ctx.size = offset, (x.shape[1], x.shape[2])
        return _shifted(x, offset, size)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        return _shifted(g, (-ctx.offset[0], -ctx.offset[1]), ctx.size), None, None


def _shifted(x: Tensor, offset: Pair, size: Pair) -> Tensor:
    ends = [start + extent - old for start, extent, old in zip(offset, size, x.shape[1:3], strict=True)]
    return framed(x, -offset[0], ends[0], -offset[1], ends[1])


def phases(x: Tensor, stride: Pair) -> list[Tensor]:
    """(B, H, W, C), whose sides the stride divides, as one map for each offset within a stride, row by row."""
    b, h, w, c = x.shape
    sh, sw = stride
    height, width = h // sh, w // sw
    result = []
    for row in range(sh):
        of_row = x if sh == 1 else x.reshape(b * height, sh * w * c)[:, row * w * c : (row + 1) * w * c]
        pixels = of_row.reshape(b * height * width, sw * c)
        parts = [pixels] if sw == 1 else [pixels[:, i * c : (i + 1) * c] for i in range(sw)]
        result += [part.reshape(b, height, width, c) for part in parts]
    return result


def interleaved(parts: Sequence[Tensor], stride: Pair) -> Tensor:
    """The counterpart of :func:`phases`, by concatenation."""
    b, height, width, c = parts[0].shape
    sh, sw = stride
    by_row = [joined(parts[row * sw : (row + 1) * sw], 3) for row in range(sh)]
    lines = [line.reshape(b * height, width * sw * c) for line in by_row]
    whole = joined(lines, 1)
    return whole.reshape(b, height * sh, width * sw, c)
