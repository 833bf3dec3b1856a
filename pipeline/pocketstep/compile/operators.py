"""NHWC operators whose backward uses inference operators only.

Every engine has and accelerates convolution with constant weights, products, add, multiply, reduce, reshape and pad;
neither forward nor backward here uses anything else. Activations are (B, H, W, C) float32 from end to end: only the
constant convolution is wrapped in permutes, which the lowerings cancel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
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


def subsample(x: Tensor, stride: Pair) -> Tensor:
    """Every ``stride``-th row and column of (B, H, W, C), by pad, reshape and a slice from zero."""
    b, h, w, c = x.shape
    sh, sw = stride
    out_h, out_w = -(-h // sh), -(-w // sw)
    x = F.pad(x, (0, 0, 0, out_w * sw - w, 0, out_h * sh - h))
    x = x.reshape(b * out_h, sh * out_w * sw * c)[:, : out_w * sw * c]
    return x.reshape(b * out_h * out_w, sw * c)[:, :c].reshape(b, out_h, out_w, c)


def zero_stuff(g: Tensor, stride: Pair, size: Pair) -> Tensor:
    """The transpose of :func:`subsample`: zeros between rows and columns, cropped to ``size``; rank <= 4 throughout."""
    b, h, w, c = g.shape
    sh, sw = stride
    columns = F.pad(g.reshape(b * h, w, 1, c), (0, 0, 0, sw - 1)).reshape(b * h, 1, w * sw * c)
    full = F.pad(columns, (0, 0, 0, sh - 1)).reshape(b, h * sh, w * sw, c)
    grown = F.pad(full, (0, 0, 0, max(0, size[1] - w * sw), 0, max(0, size[0] - h * sh)))
    return grown[:, : size[0], : size[1]]


class Subsample(torch.autograd.Function):
    """(B, H, W, C) to every ``stride``-th row and column; where a strided kernel's centre tap looks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, stride: Pair) -> Tensor:
        ctx.stride, ctx.size = stride, (x.shape[1], x.shape[2])
        return subsample(x, stride)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return zero_stuff(g, ctx.stride, ctx.size), None


class Window(torch.autograd.Function):
    """(B, H, W, C) to the ``size`` rows and columns from ``offset`` on, zeros outside; what a kernel's tap sees."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, offset: Pair, size: Pair) -> Tensor:
        ctx.offset, ctx.size = offset, (x.shape[1], x.shape[2])
        return _shifted(x, offset, size)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        return _shifted(g, (-ctx.offset[0], -ctx.offset[1]), ctx.size), None, None


def _shifted(x: Tensor, offset: Pair, size: Pair) -> Tensor:
    ends = [start + extent - old for start, extent, old in zip(offset, size, x.shape[1:3], strict=True)]
    return F.pad(x, (0, 0, -offset[1], ends[1], -offset[0], ends[0]))


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


class Pool(torch.autograd.Function):
    """Global average pooling (B, H, W, C) to (B, C): a product with a constant row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        b, h, w, c = ctx.size = x.shape
        share = frozen(lambda: torch.full((b, 1, h * w), 1.0 / (h * w)))
        return torch.bmm(share, x.reshape(b, h * w, c)).reshape(b, c)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        b, h, w, c = ctx.size
        return g.reshape(b, 1, 1, c) * frozen(lambda: torch.full((1, h, w, 1), 1.0 / (h * w)))


def grid_pool(x: Tensor, cells: int) -> Tensor:
    """Average over a grid of cells x cells: (B, H, W, C) to (B, cells * cells * C); both sides divide by ``cells``."""
    size = [x.shape[1] // cells, x.shape[2] // cells]
    return to_nhwc(aten.avg_pool2d(to_nchw(x), size, size)).reshape(x.shape[0], -1)


class Convolution:
    """Static facts of one convolution: its kernel, the flipped kernel of its input gradient, and its geometry."""

    def __init__(self, kernel: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, dilation: Pair, groups: int):
        self.kernel, self.bias = kernel, bias
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        self.flipped = frozen(lambda: flip(kernel, groups))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, I) to (B, H', W', O)."""
        y = aten.convolution(
            to_nchw(x),
            self.kernel,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            False,
            [0, 0],
            self.groups,
        )
        return to_nhwc(y)

    def backward(self, g: Tensor, size: Pair) -> Tensor:
        """Input gradient (B, H, W, I): a stride-1 convolution of the zero-stuffed gradient with the flipped kernel."""
        extent = [d * (k - 1) for d, k in zip(self.dilation, self.kernel.shape[2:], strict=True)]
        reach = [s + 2 * p - e for s, p, e in zip(size, self.padding, extent, strict=True)]
        if self.stride != (1, 1):
            g = zero_stuff(g, self.stride, (reach[0], reach[1]))
        pad = [e - p for e, p in zip(extent, self.padding, strict=True)]
        top, left = (max(0, -p) for p in pad)
        if top or left:
            g = g[:, top : g.shape[1] - top, left : g.shape[2] - left]
        pad = [max(0, p) for p in pad]
        back = aten.convolution(to_nchw(g), self.flipped, None, [1, 1], pad, self.dilation, False, [0, 0], self.groups)
        return to_nhwc(back)


def flip(kernel: Tensor, groups: int) -> Tensor:
    """The kernel of the input gradient: taps reversed, inputs and outputs of each group exchanged."""
    outputs, inputs, height, width = kernel.shape
    grouped = kernel.flip(2, 3).reshape(groups, outputs // groups, inputs, height, width)
    return grouped.transpose(1, 2).reshape(groups * inputs, outputs // groups, height, width).contiguous()


class ConstantConvolution(torch.autograd.Function):
    """A convolution with a frozen kernel (CsKO's ring, or a frozen layer behind the cut)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, convolution: Convolution) -> Tensor:
        ctx.convolution, ctx.size = convolution, (x.shape[1], x.shape[2])
        return convolution.forward(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return ctx.convolution.backward(g, ctx.size), None


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


class Columns(torch.autograd.Function):
    """(B, H, W, I) to (B, H', W', kh*kw*I): what every tap sees, so that a trainable kernel is one product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Pair, stride: Pair, padding: Pair) -> Tensor:
        ctx.geometry, ctx.size = (kernel, stride, padding), (x.shape[1], x.shape[2])
        x = F.pad(x, (0, 0, padding[1], padding[1], padding[0], padding[0]))
        return torch.cat([subsample(_window(x, tap, kernel), stride) for tap in _taps(kernel)], 3)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None]:
        (kernel, stride, padding), (h, w) = ctx.geometry, ctx.size
        height, width = h + 2 * padding[0], w + 2 * padding[1]
        channels = g.shape[3] // (kernel[0] * kernel[1])
        total: Tensor | None = None
        for index, (top, left) in enumerate(_taps(kernel)):
            part = g[..., index * channels : (index + 1) * channels]
            inner = (height - kernel[0] + 1, width - kernel[1] + 1)
            part = zero_stuff(part, stride, inner)
            part = F.pad(part, (0, 0, left, kernel[1] - 1 - left, top, kernel[0] - 1 - top))
            total = part if total is None else total + part
        assert total is not None
        return total[:, padding[0] : padding[0] + h, padding[1] : padding[1] + w], None, None, None


def _taps(kernel: Pair) -> list[Pair]:
    return [(row, column) for row in range(kernel[0]) for column in range(kernel[1])]


def _window(x: Tensor, tap: Pair, kernel: Pair) -> Tensor:
    return x[:, tap[0] : x.shape[1] - kernel[0] + 1 + tap[0], tap[1] : x.shape[2] - kernel[1] + 1 + tap[1]]
