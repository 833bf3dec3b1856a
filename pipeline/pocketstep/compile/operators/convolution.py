"""Convolutions with frozen kernels, and the columns that make a trained kernel one product."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pocketstep.compile.operators.layout import Pair, aten, framed, frozen, joined, rows, to_nchw, to_nhwc
from pocketstep.compile.operators.sampling import interleaved, subsample, zero_stuff


class Convolution:
    """One convolution with a frozen kernel: its geometry, its forward, and its input gradient.

    Args:
        kernel: (O, I / groups, kh, kw).
        bias: (O,) or None.
        stride, padding, dilation: one number a side.
        groups: of channels.
        compact: the input gradient must make do with the forward's own constant, whatever it costs.
    """

    def __init__(
        self,
        kernel: Tensor,
        bias: Tensor | None,
        stride: Pair,
        padding: Pair,
        dilation: Pair,
        groups: int,
        compact: bool = False,
    ):
        self.kernel, self.bias, self.compact = kernel, bias, compact
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups

    @cached_property
    def flipped(self) -> Tensor:
        """The kernel of the input gradient's convolution, a second constant as large as the first."""
        return frozen(lambda: flip(self.kernel, self.groups))

    @cached_property
    def rows(self) -> Tensor:
        """(O, kh * kw * I): the kernel as the runtimes store it, so that both uses share one constant."""
        return frozen(lambda: self.kernel.permute(0, 2, 3, 1).reshape(len(self.kernel), -1).contiguous())

    @cached_property
    def spread(self) -> Tensor:
        """The kernel for a transposed convolution: a constant of its own, since runtimes store it in another order."""
        return frozen(self.kernel.clone)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, I) to (B, H', W', O)."""
        return to_nhwc(self._convolve(x, self.kernel, self.bias, self.stride, self.padding))

    def backward(self, g: Tensor, size: Pair) -> Tensor:
        """Input gradient (B, H, W, I) in the form that costs least (``gradient_form``)."""
        kernel, form = _pair(self.kernel.shape[2:]), self.gradient_form(g.shape[0] * g.shape[1] * g.shape[2])
        if form == "product":
            return fold(self.columns(g), kernel, self.stride, self.padding, self.dilation, size)
        if form == "transposed":
            full = aten.convolution(to_nchw(g), self.spread, None, self.stride, [0, 0], [1, 1], True, [0, 0], 1)
            return _cropped(to_nhwc(full), self.padding, size)
        return self._flipped_convolution(g, size)

    def columns(self, g: Tensor) -> Tensor:
        """What each tap's input gets of an output gradient, (B, H', W', kh*kw*I); dense kernels only.

        A plain matrix product, because only its constant may be in the order in which the forward's lies.
        """
        return torch.mm(rows(g), self.rows).reshape(*g.shape[:3], -1)

    def gradient_form(self, pixels: int) -> str:
        """``product``, ``transposed`` or ``flipped``; ``pixels`` of the output gradient in the whole batch.

        A product with the kernel's rows, its columns folded back, needs no second constant and wins where maps are
        small and kernels large; a strided kernel is quickest as transposed convolution, which XNNPACK splits by
        output parity (2 to 3 times a convolution of the zero-stuffed gradient).
        """
        if self.groups > 1:
            return "flipped"
        if self.compact or self.kernel[0, 0].numel() == 1 or pixels <= 2 * len(self.kernel):
            return "product"
        return "transposed" if self.stride != (1, 1) and self.dilation == (1, 1) else "flipped"

    def _flipped_convolution(self, g: Tensor, size: Pair) -> Tensor:
        extent = [d * (k - 1) for d, k in zip(self.dilation, self.kernel.shape[2:], strict=True)]
        reach = [s + 2 * p - e for s, p, e in zip(size, self.padding, extent, strict=True)]
        if self.stride != (1, 1):
            g = zero_stuff(g, self.stride, (reach[0], reach[1]))
        pad = [e - p for e, p in zip(extent, self.padding, strict=True)]
        top, left = (max(0, -p) for p in pad)
        if top or left:
            g = g[:, top : g.shape[1] - top, left : g.shape[2] - left]
        return to_nhwc(self._convolve(g, self.flipped, None, (1, 1), (max(0, pad[0]), max(0, pad[1]))))

    def _convolve(self, x: Tensor, kernel: Tensor, bias: Tensor | None, stride: Pair, padding: Pair) -> Tensor:
        """NCHW result."""
        result: Tensor = aten.convolution(
            to_nchw(x), kernel, bias, stride, padding, self.dilation, False, [0, 0], self.groups
        )
        return result


def _pair(shape: torch.Size) -> Pair:
    return shape[0], shape[1]


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
    def forward(ctx: Any, x: Tensor, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Tensor:
        ctx.geometry, ctx.size = (kernel, stride, padding, dilation), (x.shape[1], x.shape[2])
        if kernel == (1, 1) and padding == (0, 0):
            return subsample(x, stride)
        extent = dilation[0] * (kernel[0] - 1), dilation[1] * (kernel[1] - 1)
        x = _padded(x, (padding[1], padding[1], padding[0], padding[0]))
        return joined([subsample(_window(x, offset, extent), stride) for offset in tap_offsets(kernel, dilation)], 3)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None, None]:
        kernel, stride, padding, dilation = ctx.geometry
        return fold(g, kernel, stride, padding, dilation, ctx.size), None, None, None, None


def fold(columns: Tensor, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, size: Pair) -> Tensor:
    """Columns (B, H', W', kh*kw*I) back to (B, H, W, I), overlaps added: the transpose of :class:`Columns`.

    Taps that meet the same rows and columns modulo the stride are added as they are; the sums are interleaved once.
    """
    channels = columns.shape[3] // (kernel[0] * kernel[1])
    offsets = tap_offsets(kernel, dilation)
    parts = {o: columns[..., index * channels : (index + 1) * channels] for index, o in enumerate(offsets)}
    return fold_parts(parts if len(parts) > 1 else {offsets[0]: columns}, stride, padding, size)


def fold_parts(parts: Mapping[Pair, Tensor], stride: Pair, padding: Pair, size: Pair) -> Tensor:
    """As :func:`fold`, from what each tap gives, (B, H', W', I), by the tap's row and column in the padded map.

    Each is moved to where it belongs without the padding, so that nothing larger than the map is made and cropped.
    """
    grid = [-(-n // s) for n, s in zip(size, stride, strict=True)]
    phases: dict[Pair, Tensor] = {}
    for (top, left), part in parts.items():
        row, row_phase = divmod(top - padding[0], stride[0])
        column, column_phase = divmod(left - padding[1], stride[1])
        below, right = grid[0] - row - part.shape[1], grid[1] - column - part.shape[2]
        if min(row + part.shape[1], column + part.shape[2], grid[0] - row, grid[1] - column) <= 0:
            continue  # it saw nothing but padding
        moved, phase = framed(part, row, below, column, right), (row_phase, column_phase)
        phases[phase] = phases[phase] + moved if phase in phases else moved
    if not phases:
        batch, _, _, channels = next(iter(parts.values())).shape
        return frozen(lambda: torch.zeros(batch, *size, channels))
    if stride == (1, 1):
        return phases[0, 0]
    if set(phases) == {(0, 0)}:
        return zero_stuff(phases[0, 0], stride, size)
    offsets = [(row, column) for row in range(stride[0]) for column in range(stride[1])]
    empty = next(iter(phases.values())) * 0.0
    return _cropped(interleaved([phases.get(offset, empty) for offset in offsets], stride), (0, 0), size)


def tap_offsets(kernel: Pair, dilation: Pair) -> list[Pair]:
    """Rows and columns at which a kernel's taps begin, row by row."""
    return [(row * dilation[0], column * dilation[1]) for row in range(kernel[0]) for column in range(kernel[1])]


def _window(x: Tensor, offset: Pair, extent: Pair) -> Tensor:
    return x[:, offset[0] : x.shape[1] - extent[0] + offset[0], offset[1] : x.shape[2] - extent[1] + offset[1]]


def _padded(x: Tensor, sides: tuple[int, int, int, int]) -> Tensor:
    """(left, right, top, bottom) zeros; nothing where all are zero."""
    return F.pad(x, (0, 0, *sides)) if any(sides) else x


def _cropped(x: Tensor, start: Pair, size: Pair) -> Tensor:
    """``size`` rows and columns from ``start`` on; zeros behind where the map ends before."""
    missing = [max(0, s + n - have) for s, n, have in zip(start, size, x.shape[1:3], strict=True)]
    x = _padded(x, (0, missing[1], 0, missing[0]))
    if start == (0, 0) and (x.shape[1], x.shape[2]) == size:
        return x
    return x[:, start[0] : start[0] + size[0], start[1] : start[1] + size[1]]
