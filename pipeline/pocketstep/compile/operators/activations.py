"""Piecewise linear activations, and hard-swish; each backward is made of what XNNPACK has.

A mask is ceil(clamp(x, 0, 0.5)), exactly 1 where x > 0 and 0 elsewhere: a compare and a cast fall out of XNNPACK, and
so does LiteRT's operator for a clamp from 0 to 1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pocketstep.compile.operators.layout import aten
from pocketstep.compile.operators.sums import reduced


def positive(x: Tensor) -> Tensor:
    """1 where x > 0, else 0."""
    return torch.ceil(torch.clamp(x, 0.0, 0.5))


class Clip(torch.autograd.Function):
    """ReLU, ReLU6, hard tanh and clamp: x between ``low`` and ``high``, where not None; no gradient at the bounds."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float | None, high: float | None) -> Tensor:
        y = torch.relu(x) if low == 0 and high is None else torch.clamp(x, low, high)
        ctx.save_for_backward(y)
        ctx.bounds = low, high
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        (y,) = ctx.saved_tensors
        low, high = ctx.bounds
        if low is not None and high is not None:  # y is between, so that one product says it is at neither
            return g * positive((y - low if low else y) * (high - y)), None, None
        if low is not None:
            g = g * (positive(y - low) if low else positive(y))
        if high is not None:
            g = g * positive(high - y)
        return g, None, None


class LeakyRelu(torch.autograd.Function):
    """x where positive, else ``slope`` x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.slope = slope
        y: Tensor = aten.leaky_relu(x, slope)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return g * (positive(x) * (1.0 - ctx.slope) + ctx.slope), None


class SlopedRelu(torch.autograd.Function):
    """PReLU with frozen slopes, which broadcast against x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(x, slope)
        return torch.relu(x) - torch.relu(-x) * slope

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor | None]:
        x, slope = ctx.saved_tensors
        mask = positive(x)
        to_slope = reduced(g * -torch.relu(-x), slope.shape) if ctx.needs_input_grad[1] else None
        return g * (mask + slope * (1.0 - mask)), to_slope


class HardSigmoid(torch.autograd.Function):
    """clamp(x / 6 + 1/2, 0, 1) (Howard et al. 2019, section 5.2)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = hard_sigmoid(x)
        ctx.save_for_backward(x)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g * (inside(x) * (1.0 / 6.0))


class HardSwish(torch.autograd.Function):
    """x times its hard sigmoid; the derivative is hard_sigmoid(x) + x / 6 where |x| < 3."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        y: Tensor = aten.hardswish(x)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        result: Tensor = g * (hard_sigmoid(x) + x * inside(x) * (1.0 / 6.0))
        return result


def hard_sigmoid(x: Tensor) -> Tensor:
    """Exactly 0 from -3 down and 1 from 3 up."""
    return torch.clamp(x + 3.0, 0.0, 6.0) * (1.0 / 6.0)


def inside(x: Tensor) -> Tensor:
    """1 where |x| < 3, else 0."""
    return positive(3.0 - torch.abs(x))
