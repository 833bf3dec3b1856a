"""Layouts, constants and products: what every other operator is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing

aten = torch.ops.aten
Pair = tuple[int, int]
MOST_JOINED = 4  # tensors that both runtimes' XNNPACK concatenates in one operator


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


def joined(parts: Sequence[Tensor], axis: int) -> Tensor:
    """Concatenation, by as many tensors at a time as both runtimes' delegates take.

    LiteRT's converter makes one of joins that follow each other, so that a view of another rank goes between them; and
    the same tensor twice is one input too few to ExecuTorch.
    """
    shape = list(parts[0].shape)
    before, behind = prod(shape[:axis]), prod(shape[axis + 1 :])
    shape[axis] = sum(part.shape[axis] for part in parts)
    rest = [part * 1.0 if any(part is other for other in parts[:index]) else part for index, part in enumerate(parts)]
    while len(rest) > 1:
        some = [rest[index : index + MOST_JOINED] for index in range(0, len(rest), MOST_JOINED)]
        rest = [torch.cat(few, axis) if len(few) > 1 else few[0] for few in some]
        if len(rest) > 1:
            sizes = [behind] if rest[0].dim() == 2 else []
            rest, axis = [part.reshape(before, -1, *sizes) for part in rest], 1
    return rest[0].reshape(shape)


def framed(x: Tensor, top: int, bottom: int, left: int, right: int, value: float = 0.0) -> Tensor:
    """(B, H, W, C) with a frame of ``value`` around it; a negative width crops, by a slice."""
    if min(top, bottom, left, right) < 0:
        rows_end, columns_end = x.shape[1] + min(0, bottom), x.shape[2] + min(0, right)
        x = x[:, max(0, -top) : rows_end, max(0, -left) : columns_end]
    sides = [max(0, side) for side in (left, right, top, bottom)]
    return padded(x, (0, 0, *sides), value) if any(sides) else x


def padded(x: Tensor, sides: Sequence[int], value: float) -> Tensor:
    """``F.pad``; a value other than zero is added to zeros, which are all that LiteRT's XNNPACK pads with."""
    sides = list(sides)
    if value == 0:
        return F.pad(x, sides)
    widths = [sides[2 * place] + sides[2 * place + 1] for place in range(len(sides) // 2)][::-1]
    widths = [0] * (x.dim() - len(widths)) + widths
    inside = [size if width else 1 for size, width in zip(x.shape, widths, strict=True)]
    return F.pad(x, sides) + frozen(lambda: F.pad(torch.zeros(inside), sides, value=value))


def fitted(x: Tensor, axis: int, before: int, behind: int, value: float = 0.0) -> Tensor:
    """One axis with ``value`` added at both ends, or cropped where negative; any rank, as three axes."""
    shape = list(x.shape)
    if before < 0 or behind < 0:
        x = x.narrow(axis, max(0, -before), shape[axis] + min(0, before) + min(0, behind))
    if before > 0 or behind > 0:
        flat = x.reshape(prod(shape[:axis]), x.shape[axis], prod(shape[axis + 1 :]))
        x = padded(flat, (0, 0, max(0, before), max(0, behind)), value)
    return x.reshape(*shape[:axis], shape[axis] + before + behind, *shape[axis + 1 :])
