"""Average pooling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pocketstep.compile.operators.convolution import Convolution
from pocketstep.compile.operators.layout import Pair, aten, framed, frozen, to_nchw, to_nhwc
from pocketstep.compile.operators.sampling import subsample
from pocketstep.compile.operators.sums import repeated, total


@dataclass(frozen=True)
class Windows:
    """Where a pooling's windows lie on a map, one number a side.

    Attributes:
        size: of the map.
        kernel, stride, padding, dilation: of the windows.
        count: windows along each side; a ceil mode's last ones may reach beyond the padding.
    """

    size: Pair
    kernel: Pair
    stride: Pair
    padding: Pair
    count: Pair
    dilation: Pair = (1, 1)

    @property
    def frame(self) -> tuple[int, int, int, int]:
        """Rows and columns to add (top, bottom, left, right) so that the windows fit exactly; negative: not seen."""
        top, left = self.padding
        high, wide = (
            (n - 1) * s + d * (k - 1) + 1
            for n, s, d, k in zip(self.count, self.stride, self.dilation, self.kernel, strict=True)
        )
        return top, high - self.size[0] - top, left, wide - self.size[1] - left

    def divisors(self, *, with_padding: bool) -> tuple[list[int], list[int]]:
        """By how much each row and each column of windows divides: its pixels, with those of the padding or without.

        What a ceil mode's windows see beyond the padding never counts.
        """
        rows, columns = (self._along(side, with_padding) for side in (0, 1))
        return rows, columns

    def _along(self, side: int, with_padding: bool) -> list[int]:
        n, k, s, p = (pair[side] for pair in (self.size, self.kernel, self.stride, self.padding))
        low, high = (-p, n + p) if with_padding else (0, n)
        starts = [index * s - p for index in range(self.count[side])]
        return [min(start + k, high) - max(start, low) for start in starts]


class AveragePool(torch.autograd.Function):
    """(B, H, W, C) averaged over windows; ``divisor`` in place of the number of pixels where given.

    The gradient is the transposed convolution with a constant kernel of ones; windows that tile the map only repeat it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, windows: Windows, with_padding: bool, divisor: int | None) -> Tensor:
        ctx.windows, ctx.factors = windows, _factors(windows, with_padding, divisor)
        seen = framed(x, *windows.frame)
        one_pixel = windows.kernel == (1, 1)
        y = subsample(seen, windows.stride) if one_pixel else _pooled(seen, windows.kernel, windows.stride)
        return y if ctx.factors is None else y * ctx.factors

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None]:
        windows: Windows = ctx.windows
        g = g if ctx.factors is None else g * ctx.factors
        top, bottom, left, right = windows.frame
        size = (windows.size[0] + top + bottom, windows.size[1] + left + right)
        area = windows.kernel[0] * windows.kernel[1]
        back = _tiled(g, windows.kernel, 1.0 / area) if windows.kernel == windows.stride else _spread(g, windows, size)
        return framed(back, -top, -bottom, -left, -right), None, None, None


def _pooled(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
    return to_nhwc(aten.avg_pool2d(to_nchw(x), kernel, stride))


def _factors(windows: Windows, with_padding: bool, divisor: int | None) -> Tensor | None:
    """(1, H', W', 1) from an average over the whole window to the average that is wanted; None where they agree."""
    area = windows.kernel[0] * windows.kernel[1]
    rows, columns = windows.divisors(with_padding=with_padding)
    if divisor is None and {r * c for r in rows for c in columns} == {area}:
        return None

    def make() -> Tensor:
        counts = torch.tensor(rows).reshape(1, -1, 1, 1) * torch.tensor(columns).reshape(1, 1, -1, 1)
        return area / (counts if divisor is None else torch.full_like(counts, divisor)).to(torch.get_default_dtype())

    return frozen(make)


def _tiled(g: Tensor, kernel: Pair, scale: float) -> Tensor:
    """Every pixel as a block of ``kernel`` pixels."""
    b, h, w, c = g.shape
    columns = repeated(g.reshape(b * h * w, 1, c), (b * h * w, kernel[1], c), scale)
    rows = repeated(columns.reshape(b * h, 1, w * kernel[1] * c), (b * h, kernel[0], w * kernel[1] * c))
    return rows.reshape(b, h * kernel[0], w * kernel[1], c)


def _spread(g: Tensor, windows: Windows, size: Pair) -> Tensor:
    channels, area = g.shape[3], windows.kernel[0] * windows.kernel[1]
    ones = frozen(lambda: torch.full((channels, 1, *windows.kernel), 1.0 / area))
    return Convolution(ones, None, windows.stride, (0, 0), (1, 1), channels).backward(g, size)


class Pool(torch.autograd.Function):
    """Global average pooling (B, H, W, C) to (B, C): a product with a constant row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        b, h, w, c = ctx.size = x.shape
        return total(x, (1, 2), 1.0 / (h * w)).reshape(b, c)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        b, h, w, c = ctx.size
        return repeated(g.reshape(b, 1, 1, c), (b, h, w, c), 1.0 / (h * w))


class PairMean(torch.autograd.Function):
    """The mean of each two neighbouring rows: (2 B, n) to (B, n)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        width = x.shape[1]
        pairs = x.reshape(-1, 2 * width)
        return (pairs[:, :width] + pairs[:, width:]) * 0.5

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        half = g * 0.5
        return torch.cat([half, half], 1).reshape(-1, g.shape[1])


def grid_pool(x: Tensor, cells: Pair) -> Tensor:
    """Average over a grid of rows and columns that divide the sides: (B, H, W, C) to (B, rows * columns * C)."""
    size = [x.shape[1] // cells[0], x.shape[2] // cells[1]]
    return _pooled(x, size, size).reshape(x.shape[0], -1)
