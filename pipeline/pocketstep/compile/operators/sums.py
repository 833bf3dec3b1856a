"""Sums and their transposes: sums fall out of XNNPACK, products with constants do not."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor

from pocketstep.compile.operators.layout import frozen, joined, product

FEW = 4  # so many summands are added one by one


class Sum(torch.autograd.Function):
    """Sums over ``axes``, which stay with size 1, times ``scale``; a mean where that is one over their number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, axes: Sequence[int], scale: float) -> Tensor:
        ctx.shape, ctx.scale = x.shape, scale
        return total(x, axes, scale)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        return repeated(g, ctx.shape, ctx.scale), None, None


class Repeat(torch.autograd.Function):
    """Broadcasts axes of size 1 to ``shape``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shape: Sequence[int]) -> Tensor:
        ctx.shape = x.shape
        return repeated(x, shape)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return reduced(g, ctx.shape), None


def total(x: Tensor, axes: Sequence[int], scale: float = 1.0) -> Tensor:
    """Sums over ``axes``, which stay with size 1, times ``scale``; products with constants, or a few slices added."""
    for first, last in _runs(x.shape, axes):
        shape, count = x.shape, prod(x.shape[first : last + 1])
        before, behind = prod(shape[:first]), prod(shape[last + 1 :])
        if behind == 1:
            result = product(x.reshape(before, count), frozen(partial(torch.full, (count, 1), scale)))
        elif count <= FEW and before > 1:
            parts = x.reshape(before, count, behind)
            result = parts[:, :1]
            for index in range(1, count):
                result = result + parts[:, index : index + 1]
            result = result if scale == 1.0 else result * scale
        else:
            weights = frozen(partial(torch.full, (before, 1, count), scale))
            result = torch.bmm(weights, x.reshape(before, count, behind))
        x, scale = result.reshape(*shape[:first], *[1] * (last + 1 - first), *shape[last + 1 :]), 1.0
    return x if scale == 1.0 else x * scale


def reduced(g: Tensor, shape: Sequence[int]) -> Tensor:
    """The gradient of an operand that was broadcast from ``shape``: the sum over what it was broadcast along."""
    missing = g.dim() - len(shape)
    padded_shape = [1] * missing + list(shape)
    axes = [axis for axis, size in enumerate(padded_shape) if size == 1 and g.shape[axis] > 1]
    result = total(g, axes)
    return result if missing == 0 else result.reshape(tuple(shape))


def repeated(x: Tensor, shape: Sequence[int], scale: float = 1.0) -> Tensor:
    """Broadcasts to ``shape``, times ``scale``: copies joined, or a product with a constant column of ones.

    XNNPACK has no expansion, and LiteRT makes one of a product of which both sides are broadcast.
    """
    missing = [size if own == 1 else 1 for own, size in zip(x.shape, shape, strict=True)]
    for first, last in _runs(shape, [axis for axis, count in enumerate(missing) if count > 1]):
        own, count = list(x.shape), prod(missing[first : last + 1])
        before, behind = prod(own[:first]), prod(own[last + 1 :])
        if count <= FEW:
            result = joined([x.reshape(before, 1, behind)] * count, 1)
            result = result if scale == 1.0 else result * scale
        elif behind == 1:
            result = product(x.reshape(before, 1), frozen(partial(torch.full, (1, count), scale)))
        else:
            ones = frozen(partial(torch.full, (before, count, 1), scale))
            result = torch.bmm(ones, x.reshape(before, 1, behind))
        x, scale = result.reshape(*own[:first], *missing[first : last + 1], *own[last + 1 :]), 1.0
    return x if scale == 1.0 else x * scale


def _runs(shape: Sequence[int], axes: Sequence[int]) -> list[tuple[int, int]]:
    """First and last of every stretch of axes that can be summed as one."""
    runs: list[tuple[int, int]] = []
    for axis in sorted(a for a in axes if shape[a] > 1):
        if runs and prod(shape[runs[-1][1] + 1 : axis]) == 1:
            runs[-1] = (runs[-1][0], axis)
        else:
            runs.append((axis, axis))
    return runs
