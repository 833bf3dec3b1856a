"""Smooth activations; each backward is written out, of what XNNPACK has."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pocketstep.compile.operators.activations import positive
from pocketstep.compile.operators.layout import aten
from pocketstep.compile.operators.sums import total

# erf(z) = 1 - (a1 t + ... + a5 t^5) exp(-z^2), t = 1 / (1 + p z), z >= 0: within 1.5e-7 (Abramowitz and Stegun, 7.1.26)
ERF_P = 0.3275911
ERF_A = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
ROOT, CUBE = math.sqrt(2 / math.pi), 0.044715  # tanh(ROOT (x + CUBE x^3)) is near erf(x / sqrt 2)
LARGE = 20.0  # from here on softplus(x) is x in fp32


class Sigmoid(torch.autograd.Function):
    """1 / (1 + exp(-x))."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = torch.sigmoid(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        result: Tensor = g * (y * (1.0 - y))
        return result


class Tanh(torch.autograd.Function):
    """tanh(x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = torch.tanh(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        result: Tensor = g * (1.0 - y * y)
        return result


class Silu(torch.autograd.Function):
    """x s with s = sigmoid(x), also called swish; the derivative is s (1 + x (1 - s))."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        s = torch.sigmoid(x)
        ctx.save_for_backward(x, s)
        return x * s

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        x, s = ctx.saved_tensors
        result: Tensor = g * (s * (x * (1.0 - s) + 1.0))
        return result


class Gelu(torch.autograd.Function):
    """x P(x), P the normal distribution; or with tanh in its place (Hendrycks and Gimpel 2016).

    The derivative is P(x) + x p(x) with p the density. No delegate has erf: P comes from a rational function of x and
    the exponential that p needs anyway. The form with tanh is written out, since XNNPACK takes it for the exact one.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, approximate: str) -> Tensor:
        ctx.save_for_backward(x)
        ctx.approximate = approximate
        y: Tensor = aten.gelu(x) if approximate == "none" else x * (torch.tanh(_tanh_argument(x)) * 0.5 + 0.5)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return g * (_gelu_slope(x) if ctx.approximate == "none" else _tanh_gelu_slope(x)), None


def _gelu_slope(x: Tensor) -> Tensor:
    bell = torch.exp(x * x * -0.5)
    root = torch.rsqrt(torch.abs(x) * (ERF_P / math.sqrt(2)) + 1.0)
    t = root * root  # the inverse: LiteRT's converter turns a constant over a transposed tensor round
    series = t * ERF_A[-1] + ERF_A[-2]
    for coefficient in ERF_A[-3::-1]:
        series = series * t + coefficient
    tail = series * t * bell * 0.5  # 1 - P(|x|)
    mask = positive(x)
    return mask + (1.0 - mask * 2.0) * tail + x * bell * (1.0 / math.sqrt(2 * math.pi))


def _tanh_argument(x: Tensor) -> Tensor:
    return x * (x * x * (ROOT * CUBE) + ROOT)


def _tanh_gelu_slope(x: Tensor) -> Tensor:
    t = torch.tanh(_tanh_argument(x))
    return t * 0.5 + 0.5 + x * (1.0 - t * t) * (x * x * (1.5 * ROOT * CUBE) + 0.5 * ROOT)


class Elu(torch.autograd.Function):
    """``scale`` (x where positive, else ``alpha`` (exp(``steepness`` x) - 1)): ELU, SELU and CELU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: float, scale: float, steepness: float) -> Tensor:
        bend = torch.exp(torch.clamp(x, max=0.0) * steepness) * (alpha * scale)
        ctx.save_for_backward(x, bend)
        ctx.constants = scale, steepness
        return torch.relu(x) * scale + (bend - alpha * scale)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None]:
        x, bend = ctx.saved_tensors
        scale, steepness = ctx.constants
        mask = positive(x)
        return g * (mask * scale + (1.0 - mask) * bend * steepness), None, None, None


class Softplus(torch.autograd.Function):
    """log(1 + exp(beta x)) / beta, as max(x, 0) + log(1 + exp(-beta |x|)) / beta, which cannot overflow."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, beta: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.beta = beta
        return torch.relu(x) + torch.log(torch.exp(torch.abs(x) * -beta) + 1.0) * (1.0 / beta)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return g * torch.sigmoid(x * ctx.beta), None


class Mish(torch.autograd.Function):
    """x t with t = tanh(softplus(x)) (Misra 2019): with e = exp(x), t is (e^2 + 2 e) / (e^2 + 2 e + 2)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        e = torch.exp(torch.clamp(x, max=LARGE))
        part = e * (e + 2.0)
        t = part / (part + 2.0)
        ctx.save_for_backward(x, t)
        return x * t

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        x, t = ctx.saved_tensors
        result: Tensor = g * (t + x * (1.0 - t * t) * torch.sigmoid(x))
        return result


class Softmax(torch.autograd.Function):
    """Over the last axis; the gradient is y (g - sum of g y)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = torch.softmax(x, x.dim() - 1)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        result: Tensor = y * (g - total(g * y, [g.dim() - 1]))
        return result
