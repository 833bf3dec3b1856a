"""Convolutions with frozen kernels, and the columns that make a trained kernel one product."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pocketstep.compile.operators.layout import Pair, aten, frozen, to_nchw, to_nhwc
from pocketstep.compile.operators.sampling import subsample, zero_stuff


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
