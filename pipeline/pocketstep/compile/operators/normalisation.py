"""Normalisations by statistics of the sample itself. (A batch norm's are constants, and folded away.)"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pocketstep.compile.operators.layout import frozen, product
from pocketstep.compile.operators.sums import total

Average = Callable[[Tensor], Tensor]


class LayerNorm(torch.autograd.Function):
    """(rows, n), every row to mean 0 and variance 1 (Ba et al. 2016)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        ctx.average = _row_average
        return _normalise(ctx, x, eps)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return _gradient(ctx, g), None


class GroupNorm(torch.autograd.Function):
    """(B, pixels, C), every group of channels of a sample to mean 0 and variance 1 (Wu and He 2018)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, groups: int, eps: float) -> Tensor:
        ctx.average = _group_average(groups)
        return _normalise(ctx, x, eps)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        return _gradient(ctx, g), None, None


def _normalise(ctx: Any, x: Tensor, eps: float) -> Tensor:
    centred = x - ctx.average(x)
    scale = torch.rsqrt(ctx.average(centred * centred) + eps)
    y: Tensor = centred * scale
    ctx.save_for_backward(y, scale)
    return y


def _gradient(ctx: Any, g: Tensor) -> Tensor:
    """Averaging over the set, written A, is symmetric, so that the gradient is scale (g - A g - y A(g y))."""
    y, scale = ctx.saved_tensors
    result: Tensor = (g - ctx.average(g) - y * ctx.average(g * y)) * scale
    return result


def _row_average(x: Tensor) -> Tensor:
    return total(x, [1], 1.0 / x.shape[1])


def _group_average(groups: int) -> Average:
    def average(x: Tensor) -> Tensor:
        b, pixels, c = x.shape
        by_channel = total(x, [1], 1.0 / pixels).reshape(b, c)
        if groups == c:
            return by_channel.reshape(b, 1, c)
        size = c // groups
        mixing = frozen(lambda: torch.kron(torch.eye(groups), torch.full((size, size), 1.0 / size)))
        return product(by_channel, mixing).reshape(b, 1, c)

    return average
