"""Elementwise arithmetic between tensors of any shapes that broadcast, and powers.

PyTorch's own backward rules of these sum with ``sum`` and compare with ``where``; these use products and masks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pocketstep.compile.operators.activations import positive
from pocketstep.compile.operators.layout import frozen
from pocketstep.compile.operators.sums import reduced, repeated

Gradients = tuple[Tensor | None, Tensor | None]


def one_sided(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The same two, of which at least one has the shape of the result: LiteRT would expand both, outside XNNPACK."""
    shape = torch.Size(torch.broadcast_shapes(a.shape, b.shape))  # type: ignore[no-untyped-call]
    if shape in (a.shape, b.shape):
        return a, b
    return repeated(a.reshape(*[1] * (len(shape) - a.dim()), *a.shape), shape), b


class Add(torch.autograd.Function):
    """a + b."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.shapes = a.shape, b.shape
        a, b = one_sided(a, b)
        return a + b

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Gradients:
        first, second = ctx.needs_input_grad
        return (reduced(g, ctx.shapes[0]) if first else None, reduced(g, ctx.shapes[1]) if second else None)


class Subtract(torch.autograd.Function):
    """a - b."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.shapes = a.shape, b.shape
        a, b = one_sided(a, b)
        return a - b

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Gradients:
        first, second = ctx.needs_input_grad
        return (reduced(g, ctx.shapes[0]) if first else None, -reduced(g, ctx.shapes[1]) if second else None)


class Multiply(torch.autograd.Function):
    """a * b: a squeeze-and-excitation's gate among them, (B, 1, 1, C) beside (B, H, W, C)."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        a, b = one_sided(a, b)
        return a * b

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Gradients:
        a, b = ctx.saved_tensors
        first, second = ctx.needs_input_grad
        return (reduced(g * b, a.shape) if first else None, reduced(g * a, b.shape) if second else None)


class Divide(torch.autograd.Function):
    """a / b."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.shape = a.shape
        dividend, divisor = one_sided(a, b)
        quotient = dividend / divisor
        ctx.save_for_backward(quotient, b)
        return quotient

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Gradients:
        quotient, b = ctx.saved_tensors
        first, second = ctx.needs_input_grad
        share = g / b
        return (
            reduced(share, ctx.shape) if first else None,
            -reduced(share * quotient, b.shape) if second else None,
        )


class Larger(torch.autograd.Function):
    """The larger of a and b; where they tie, both get half of the gradient, as PyTorch has it."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return torch.maximum(*one_sided(a, b))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Gradients:
        a, b = ctx.saved_tensors
        shapes = a.shape, b.shape
        a, b = one_sided(a, b)
        share = (positive(a - b) - positive(b - a)) * 0.5 + 0.5
        first, second = ctx.needs_input_grad
        return (
            reduced(g * share, shapes[0]) if first else None,
            reduced(g * (1.0 - share), shapes[1]) if second else None,
        )


class Power(torch.autograd.Function):
    """x to a constant power: roots and products for halves and small whole numbers, else exp(p log x) of positive x.

    Where x is 0 a power below 1 has no gradient.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, exponent: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.exponent = exponent
        return power(x, exponent)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        below = ctx.exponent - 1.0
        return g * (power(x, below) * ctx.exponent if below else frozen(lambda: torch.full((1,), ctx.exponent))), None


def power(x: Tensor, exponent: float) -> Tensor:
    """x ** exponent, of what delegates have."""
    if exponent < 0 and exponent != -0.5:
        below = power(x, -exponent)
        return below / (below * below)  # LiteRT's converter turns a constant over a transposed tensor round
    if exponent in (0.5, -0.5):
        return torch.sqrt(x) if exponent > 0 else torch.rsqrt(x)
    whole = int(exponent)
    if exponent - whole not in (0.0, 0.5) or not 1 <= exponent <= 8:
        return torch.exp(torch.log(x) * exponent)
    result = x
    for _ in range(whole - 1):
        result = result * x
    return result if exponent == whole else result * torch.sqrt(x)


class Absolute(torch.autograd.Function):
    """|x|; no gradient at zero."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.abs(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g * (positive(x) - positive(-x))


class Exponential(torch.autograd.Function):
    """exp(x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = torch.exp(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        result: Tensor = g * y
        return result


class Logarithm(torch.autograd.Function):
    """log(x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.log(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        result: Tensor = g / x
        return result
