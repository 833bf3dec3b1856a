"""Products of two variables."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class BatchProduct(torch.autograd.Function):
    """(b, m, k) x (b, k, n)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        return torch.bmm(x, y)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, y = ctx.saved_tensors
        first, second = ctx.needs_input_grad
        return (
            torch.bmm(g, y.transpose(1, 2)) if first else None,
            torch.bmm(x.transpose(1, 2), g) if second else None,
        )
