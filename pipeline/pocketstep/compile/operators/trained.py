"""Operators with a trained weight."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pocketstep.compile.operators.layout import column_sums, product, rows


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


class CentreProduct(torch.autograd.Function):
    """(B, H, W, I) x (I, O): the trainable 1x1 tap; both gradients are one product each (CsKO)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(rows(x), weight).reshape(*x.shape[:3], -1)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return product(rows(g), weight, turn_b=True).reshape(x.shape), product(rows(x), rows(g), turn_a=True)


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
