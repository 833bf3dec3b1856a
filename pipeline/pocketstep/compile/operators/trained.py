"""Operators with a trained weight."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pocketstep.compile.operators.layout import column_sums, joined, product, rows


class Matrix(torch.autograd.Function):
    """(m, k) x (n, k) transposed: a linear layer whose weight, in PyTorch's layout, is trained."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, turn_b=True)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return product(g, weight), product(g, x, turn_a=True)


class Shift(torch.autograd.Function):
    """A trained bias (n,) added to (m, n); its gradient is a product, because sums fall out of XNNPACK."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor) -> Tensor:
        return x + bias

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        return g, column_sums(g).reshape(-1)


def through_turned(g: Tensor, weight: Tensor) -> Tensor:
    """(n, o) x (k, o) transposed.

    XNNPACK packs the second factor anew in every call, the first not at all: a weight much larger than what it is
    multiplied with goes first, and the result is turned.
    """
    n, o, k = *g.shape, weight.shape[0]
    if 2 * n * (k + o) > k * o:
        return product(g, weight, turn_b=True)
    return product(weight, g, turn_b=True).t()


class CentreProduct(torch.autograd.Function):
    """(B, H, W, I) x (I, O): the trainable 1x1 tap; both gradients are one product each (CsKO)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(rows(x), weight).reshape(*x.shape[:3], -1)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return through_turned(rows(g), weight).reshape(x.shape), product(rows(x), rows(g), turn_a=True)


class CentreScale(torch.autograd.Function):
    """The centre tap of a depthwise kernel: one weight (C,) a channel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x * weight

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return g * weight, column_sums(rows(g * x)).reshape(-1)


class GroupedProduct(torch.autograd.Function):
    """(B, H, W, taps*I) x (G, taps*I/G, O/G): one product a group of channels, as one batch of products."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, taps: int) -> Tensor:
        grouped = _by_group(x, weight.shape[0], taps)
        ctx.save_for_backward(grouped, weight)
        ctx.shape, ctx.taps = x.shape, taps
        return _side_by_side(torch.bmm(grouped, weight), 1).reshape(*x.shape[:3], -1)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        grouped = _by_group(g, weight.shape[0], 1)
        back = _side_by_side(torch.bmm(grouped, weight.transpose(1, 2)), ctx.taps)
        return back.reshape(ctx.shape), torch.bmm(x.transpose(1, 2), grouped), None


def _by_group(x: Tensor, groups: int, taps: int) -> Tensor:
    """(B, H, W, taps*I) to (G, B*H*W, taps*I/G)."""
    per_group = x.shape[3] // (taps * groups)
    return rows(x).reshape(-1, taps, groups, per_group).permute(2, 0, 1, 3).reshape(groups, -1, taps * per_group)


def _side_by_side(x: Tensor, taps: int) -> Tensor:
    """(G, n, taps*I/G) to (n, taps*I)."""
    groups, n, width = x.shape
    return x.reshape(groups, n, taps, width // taps).permute(1, 2, 0, 3).reshape(n, groups * width)


class DepthwiseTaps(torch.autograd.Function):
    """(B, H, W, taps*C) x (taps, C): all taps of a depthwise kernel."""

    @staticmethod
    def forward(ctx: Any, columns: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(columns, weight)
        parts = _by_tap(columns * weight.reshape(-1), len(weight))
        return sum(parts[1:], parts[0])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        columns, weight = ctx.saved_tensors
        scaled = [g * weight[tap : tap + 1].reshape(-1) for tap in range(len(weight))]
        sums = [column_sums(rows(g * part)) for part in _by_tap(columns, len(weight))]
        return joined(scaled, 3), joined(sums, 0)


def _by_tap(columns: Tensor, taps: int) -> list[Tensor]:
    channels = columns.shape[3] // taps
    return [columns[..., tap * channels : (tap + 1) * channels] for tap in range(taps)]
