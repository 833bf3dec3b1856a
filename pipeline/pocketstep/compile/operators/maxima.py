"""Max pooling and largest values; which input won is found again in the backward, without indices.

PyTorch's CPU kernels give a window's whole gradient to the first of equal maxima, row by row; so do these. ``amax``
shares it evenly.
"""

from __future__ import annotations

from functools import partial, reduce
from math import prod
from typing import Any

import torch
from torch import Tensor

from pocketstep.compile.operators.activations import positive
from pocketstep.compile.operators.layout import Pair, aten, framed, frozen, product, to_nchw, to_nhwc
from pocketstep.compile.operators.pooling import Windows
from pocketstep.compile.operators.sampling import interleaved, phases
from pocketstep.compile.operators.sums import total

LOWEST = -1e30  # stands for minus infinity outside a map


class MaxPool(torch.autograd.Function):
    """(B, H, W, C) to the largest of each window.

    Backward: the map is split into one map for each offset within a stride, on which every tap of the window is a
    shift. The gradient goes along the taps: what the first one that equals the maximum takes is no longer there for
    the next.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, windows: Windows) -> Tensor:
        ctx.windows = windows
        overlap = all(s <= k for s, k in zip(windows.stride, windows.kernel, strict=True))
        if overlap and windows.kernel != (1, 1) and windows.dilation == (1, 1):
            y = _max_pool(x, windows)
        else:  # forms that not every delegate has
            y = reduce(torch.maximum, (tap for _, _, tap in _taps(x, windows)))
        ctx.save_for_backward(x, y)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        x, y = ctx.saved_tensors
        windows: Windows = ctx.windows
        height, width = _grid(windows)
        parts: dict[int, Tensor] = {}
        left_over = g
        for phase, (row, column), tap in _taps(x, windows):
            remaining = left_over * positive(y - tap)
            won, left_over = left_over - remaining, remaining
            won = framed(won, row, height - row - g.shape[1], column, width - column - g.shape[2])
            parts[phase] = parts[phase] + won if phase in parts else won
        size, stride = (len(x), height, width, x.shape[3]), windows.stride
        unseen = (index for index in range(stride[0] * stride[1]) if index not in parts)
        parts.update({index: frozen(partial(torch.zeros, size)) for index in unseen})
        whole = interleaved([parts[index] for index in sorted(parts)], stride)
        (top, left), (h, w) = windows.padding, windows.size
        return framed(whole, -top, h + top - whole.shape[1], -left, w + left - whole.shape[2]), None


def _max_pool(x: Tensor, windows: Windows) -> Tensor:
    """PyTorch's own; in ceil mode only where the number of windows asks for it."""
    (h, w), (kh, kw), (sh, sw), (top, left) = windows.size, windows.kernel, windows.stride, windows.padding
    floor = (h + 2 * top - kh) // sh + 1, (w + 2 * left - kw) // sw + 1
    ceil = floor != windows.count
    return to_nhwc(aten.max_pool2d_with_indices(to_nchw(x), (kh, kw), (sh, sw), (top, left), (1, 1), ceil)[0])


def _grid(windows: Windows) -> Pair:
    """Sides of the maps that :func:`_taps` shifts over: all pixels of all windows, by stride."""
    top, bottom, left, right = windows.frame
    height, width = windows.size[0] + top + bottom, windows.size[1] + left + right
    return -(-height // windows.stride[0]), -(-width // windows.stride[1])


def _taps(x: Tensor, windows: Windows) -> list[tuple[int, Pair, Tensor]]:
    """For every tap of the window: its phase, its shift there, and what it sees (B, H', W', C)."""
    (height, width), (sh, sw), (dh, dw) = _grid(windows), windows.stride, windows.dilation
    top, left = windows.padding
    bottom, right = height * sh - top - windows.size[0], width * sw - left - windows.size[1]
    maps = phases(framed(x, top, bottom, left, right, LOWEST), windows.stride)
    found = []
    for row in range(windows.kernel[0]):
        for column in range(windows.kernel[1]):
            phase = row * dh % sh * sw + column * dw % sw
            down, over = row * dh // sh, column * dw // sw
            seen = maps[phase][:, down : down + windows.count[0], over : over + windows.count[1]]
            found.append((phase, (down, over), seen))
    return found


class Largest(torch.autograd.Function):
    """The largest along a run of axes, which stay with size 1; ``shared``: equal ones share the gradient.

    Otherwise the first takes it: the number of equal ones before each is a product with a constant triangle.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, first: int, last: int, shared: bool) -> Tensor:
        before, count, behind = ctx.sizes = _three(x, first, last)
        flat = x.reshape(before, count, behind)
        y = flat if count == 1 else _largest(flat)
        ctx.save_for_backward(flat, y)
        ctx.shape, ctx.shared = x.shape, shared
        return y.reshape(*x.shape[:first], *[1] * (last + 1 - first), *x.shape[last + 1 :])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None]:
        x, y = ctx.saved_tensors
        before, _, behind = ctx.sizes
        g, equal = g.reshape(before, 1, behind), 1.0 - positive(y - x)
        if ctx.shared:
            result = equal * (g / total(equal, [1]))
        else:
            result = g * (equal * (1.0 - torch.clamp(_earlier(equal), 0.0, 1.0)))
        return result.reshape(ctx.shape), None, None, None


def _three(x: Tensor, first: int, last: int) -> tuple[int, int, int]:
    return prod(x.shape[:first]), prod(x.shape[first : last + 1]), prod(x.shape[last + 1 :])


def _largest(x: Tensor) -> Tensor:
    """(a, n, b) to (a, 1, b), as a pooling of a map; whatever the sizes, channels stay innermost."""
    a, n, b = x.shape
    if b == 1:
        return to_nhwc(_pool_all(to_nchw(x.reshape(1, a, n, 1)), (1, n))).reshape(a, 1, 1)
    return to_nhwc(_pool_all(to_nchw(x.reshape(a, n, 1, b)), (n, 1))).reshape(a, 1, b)


def _pool_all(x: Tensor, kernel: Pair) -> Tensor:
    result: Tensor = aten.max_pool2d_with_indices(x, kernel, kernel)[0]
    return result


def _earlier(equal: Tensor) -> Tensor:
    """(a, n, b): how many ones stand before each along the middle axis."""
    a, n, b = equal.shape
    if b == 1:
        return product(equal.reshape(a, n), frozen(lambda: torch.ones(n, n).triu(1))).reshape(a, n, 1)
    return torch.bmm(frozen(lambda: torch.ones(n, n).tril(-1).expand(a, n, n).contiguous()), equal)
