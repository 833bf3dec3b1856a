"""Pointwise activations; each backward is made of what XNNPACK has."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Clip(torch.autograd.Function):
    """ReLU and ReLU6. The mask is ceil(clamp(y, 0, 1)): a compare and a cast fall out of XNNPACK."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, top: float | None) -> Tensor:
        y = torch.relu(x) if top is None else torch.clamp(x, 0, top)
        ctx.save_for_backward(y)
        ctx.top = top
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (y,) = ctx.saved_tensors
        mask = torch.ceil(torch.clamp(y, 0, 1))
        if ctx.top is not None:
            mask = mask * torch.ceil(torch.clamp(ctx.top - y, 0, 1))
        return g * mask, None
