"""A symmetric matrix kept in strips: what lies left of a strip's own block of the diagonal is not kept.

With eight strips 9/16 of the matrix are, for sums of x x' over samples (:func:`second_moment`) as well as for a single
sample's (:func:`outer_products`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pocketstep.compile.operators import product

STRIPS = 8


def strip_height(size: int) -> int:
    """Rows of each strip of a matrix (size, size); the last ones can be padding."""
    return -(-size // STRIPS)


def strip_widths(size: int) -> list[int]:
    """Columns of each strip, from its own block of the diagonal to the right end."""
    height = strip_height(size)
    return [height * (STRIPS - strip) for strip in range(STRIPS)]


def strip_starts(size: int) -> range:
    """The first row, and column, of each strip."""
    height = strip_height(size)
    return range(0, height * STRIPS, height)


def second_shape(size: int) -> tuple[int, int]:
    """Of the second moment of ``size`` features, as it is kept: its strips beside one another."""
    return strip_height(size), sum(strip_widths(size))


def kept_values(size: int) -> int:
    """How many numbers the strips of a matrix (size, size) have."""
    height, width = second_shape(size)
    return height * width


def second_moment(features: Tensor, column: Tensor) -> Tensor:
    """Weighted sum of x x' over rows (B, D), weights (B, 1), in strips: ``second_shape(D)``."""
    x, height = _padded(features), strip_height(features.shape[1])
    weighted = x * column
    blocks = [product(weighted[:, s : s + height], x[:, s:], turn_a=True) for s in strip_starts(features.shape[1])]
    return torch.cat(blocks, 1)


def symmetric(second: Tensor, size: int) -> Tensor:
    """(size, size) from what :func:`second_moment` gives."""
    height = strip_height(size)
    strips = [piece.reshape(1, height, -1) for piece in _pieces(second, strip_widths(size))]
    return _whole(strips).reshape(height * STRIPS, height * STRIPS)[:size, :size]


def outer_products(x: Tensor) -> Tensor:
    """x x' of every row (B, k) in strips, one behind the other: (B, kept_values(k))."""
    x, height, parts = _padded(x), strip_height(x.shape[1]), list[Tensor]()
    for start, width in zip(strip_starts(x.shape[1]), strip_widths(x.shape[1]), strict=True):
        block = x[:, start : start + height].reshape(-1, height, 1) * x[:, start:].reshape(-1, 1, width)
        parts.append(block.reshape(-1, height * width))
    return torch.cat(parts, 1)


def symmetric_each(kept: Tensor, size: int) -> Tensor:
    """(N, size, size) from rows of :func:`outer_products`, (N, kept_values(size))."""
    height, widths = strip_height(size), strip_widths(size)
    pieces = _pieces(kept, [height * width for width in widths])
    strips = [piece.reshape(-1, height, width) for piece, width in zip(pieces, widths, strict=True)]
    return _whole(strips)[:, :size, :size]


def quadratic_weights(matrices: Tensor) -> Tensor:
    """Rows w with w . outer_products(x) = x' M x, of symmetric matrices M (N, k, k): (N, kept_values(k))."""
    size = matrices.shape[1]
    height = strip_height(size)
    padding = height * STRIPS - size
    matrices, parts = F.pad(matrices, (0, padding, 0, padding)) if padding else matrices, list[Tensor]()
    for start, width in zip(strip_starts(size), strip_widths(size), strict=True):
        strip = matrices[:, start : start + height]
        block = strip[:, :, start : start + height]
        if width > height:
            block = torch.cat([block, strip[:, :, start + height :] * 2.0], 2)
        parts.append(block.reshape(-1, height * width))
    return torch.cat(parts, 1)


def _pieces(rows: Tensor, widths: Sequence[int]) -> list[Tensor]:
    """Columns of so many each, one piece behind the other."""
    ends = itertools.accumulate(widths)
    return [rows[:, end - width : end] for width, end in zip(widths, ends, strict=True)]


def _padded(x: Tensor) -> Tensor:
    padding = strip_height(x.shape[1]) * STRIPS - x.shape[1]
    return F.pad(x, (0, padding)) if padding else x


def _whole(strips: Sequence[Tensor]) -> Tensor:
    """(N, k, k) of strips (N, h, w): what is left of the diagonal's blocks is what lies above them, turned."""
    height, rows = strips[0].shape[1], list[Tensor]()
    for number, strip in enumerate(strips):
        left = [
            above[:, :, (number - n) * height :][:, :, :height].transpose(1, 2)
            for n, above in enumerate(strips[:number])
        ]
        rows.append(torch.cat([*left, strip], 2) if left else strip)
    return torch.cat(rows, 1)
