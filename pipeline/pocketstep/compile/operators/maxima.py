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
        whole = framed(x, *_frame(windows), LOWEST)
        overlap = all(s <= k for s, k in zip(windows.stride, windows.kernel, strict=True))
        if overlap and windows.kernel != (1, 1) and windows.dilation == (1, 1):
            y = to_nhwc(_max_pool(to_nchw(whole), windows.kernel, windows.stride))
        else:  # forms that not every delegate has
            y = reduce(torch.maximum, (tap for _, _, tap in _taps(whole, windows)))
        ctx.save_for_backward(whole, y)
        ctx.windows = windows
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        whole, y = ctx.saved_tensors
        windows: Windows = ctx.windows
        stride = windows.stride
        size = (whole.shape[0], whole.shape[1] // stride[0], whole.shape[2] // stride[1], whole.shape[3])
        parts: dict[int, Tensor] = {}
        left_over = g
        for phase, (row, column), tap in _taps(whole, windows):
            remaining = left_over * positive(y - tap)
            won, left_over = left_over - remaining, remaining
            won = framed(won, row, size[1] - row - g.shape[1], column, size[2] - column - g.shape[2])
            parts[phase] = parts[phase] + won if phase in parts else won
        unseen = (index for index in range(stride[0] * stride[1]) if index not in parts)
        parts.update({index: frozen(partial(torch.zeros, size)) for index in unseen})
        back = interleaved([parts[index] for index in sorted(parts)], stride)
        top, bottom, left, right = _frame(windows)
        return framed(back, -top, -bottom, -left, -right), None


def _frame(windows: Windows) -> tuple[int, int, int, int]:
    """As the windows', but to whole strides."""
    top, bottom, left, right = windows.frame
    (h, w), (sh, sw) = windows.size, windows.stride
    return top, bottom + -(h + top + bottom) % sh, left, right + -(w + left + right) % sw


def _taps(whole: Tensor, windows: Windows) -> list[tuple[int, Pair, Tensor]]:
    """For every tap of the window: its phase, its shift there, and what it sees (B, H', W', C) of the framed map."""
    (sh, sw), (dh, dw), maps = windows.stride, windows.dilation, phases(whole, windows.stride)
    found = []
    for row in range(windows.kernel[0]):
        for column in range(windows.kernel[1]):
            phase = row * dh % sh * sw + column * dw % sw
            down, over = row * dh // sh, column * dw // sw
            seen = maps[phase][:, down : down + windows.count[0], over : over + windows.count[1]]
            found.append((phase, (down, over), seen))
    return found


def _max_pool(x: Tensor, kernel: Pair, stride: Pair) -> Tensor:
    """PyTorch's own, without padding: what it pads with, LiteRT's XNNPACK does not have."""
    y: Tensor = aten.max_pool2d_with_indices(x, kernel, stride)[0]
    return y


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
        won = equal / total(equal, [1]) if ctx.shared else equal * (1.0 - positive(_earlier(equal)))
        return (g * won).reshape(ctx.shape), None, None, None


def _three(x: Tensor, first: int, last: int) -> tuple[int, int, int]:
    return prod(x.shape[:first]), prod(x.shape[first : last + 1]), prod(x.shape[last + 1 :])


def _largest(x: Tensor) -> Tensor:
    """(a, n, b) to (a, 1, b), as a pooling of a map; whatever the sizes, channels stay innermost."""
    a, n, b = x.shape
    if b == 1:
        return to_nhwc(_max_pool(to_nchw(x.reshape(1, a, n, 1)), (1, n), (1, n))).reshape(a, 1, 1)
    return to_nhwc(_max_pool(to_nchw(x.reshape(a, n, 1, b)), (n, 1), (n, 1))).reshape(a, 1, b)


def _earlier(equal: Tensor) -> Tensor:
    """(a, n, b): how many ones stand before each along the middle axis."""
    a, n, b = equal.shape
    last = equal.permute(0, 2, 1).reshape(a * b, n)
    counts = product(last, frozen(lambda: torch.ones(n, n).triu(1)))
    return counts.reshape(a, b, n).permute(0, 2, 1)
