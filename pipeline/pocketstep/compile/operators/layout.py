"""Layouts, constants and products: what every other operator is made of."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing

aten = torch.ops.aten
Pair = tuple[int, int]


def to_nchw(x: Tensor) -> Tensor:
    """(B, H, W, C) to (B, C, H, W)."""
    return x.permute(0, 3, 1, 2)


def to_nhwc(x: Tensor) -> Tensor:
    """(B, C, H, W) to (B, H, W, C)."""
    return x.permute(0, 2, 3, 1)


def frozen(make: Callable[[], Tensor]) -> Tensor:
    """A tensor made while tracing that becomes a constant of the program, not the operators that make it."""
    with disable_proxy_modes_tracing():
        return make()


def product(a: Tensor, b: Tensor, *, turn_a: bool = False, turn_b: bool = False) -> Tensor:
    """Matrix product (m, k) x (k, n) of a or its transpose and b or its transpose.

    As a batch of one, which is the form that XNNPACK takes for two variables; transposed there, where no copy is due.
    """
    a, b = a.reshape(1, *a.shape), b.reshape(1, *b.shape)
    result = torch.bmm(a.transpose(1, 2) if turn_a else a, b.transpose(1, 2) if turn_b else b)
    return result.reshape(result.shape[1:])


def row_sums(x: Tensor) -> Tensor:
    """(m, n) to (m, 1); as a product, because sums fall out of XNNPACK."""
    return product(x, frozen(lambda: torch.ones(x.shape[1], 1)))


def column_sums(x: Tensor) -> Tensor:
    """(m, n) to (1, n)."""
    return product(frozen(lambda: torch.ones(1, x.shape[0])), x)


def rows(x: Tensor) -> Tensor:
    """(B, H, W, C) to (B*H*W, C)."""
    return x.reshape(-1, x.shape[-1])
