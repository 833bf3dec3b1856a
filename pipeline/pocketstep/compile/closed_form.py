"""Closed-form heads on frozen features: statistics that add up sample by sample, and what they give.

Streaming LDA (Hayes and Kanan 2020): class means and one shared covariance; logits are x' S^-1 m - m' S^-1 m / 2.
With the covariance shrunk all the way to a multiple of the identity the same formula is the nearest class mean.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

from pocketstep.compile.operators import column_sums, frozen, product, row_sums

INVERSE_ITERATIONS = 18  # about 2 log2(condition): enough for the 10^3 that shrinkage leaves

STRIPS = 8
"""Of a symmetric matrix: what lies left of a strip's own block is not kept, so that 9/16 of it are."""

SMALLEST_VARIANCE = 1e-6
"""Of features whose mean square is one: identical samples still give a matrix with an inverse."""


def accumulate(
    count: Tensor, total: Tensor, second: Tensor, features: Tensor, labels: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Adds samples to the statistics; a negative weight takes a sample out again.

    Args:
        count: (slots,), total: (slots, D), second: uncentred, ``second_shape(D)``.
        features: (B, D), labels: (B, slots) one-hot, weights: (B,), 0 for padding.
    """
    column = weights.reshape(-1, 1)
    chosen = labels * column
    return (
        count + column_sums(chosen).reshape(-1),
        total + product(chosen, features, turn_a=True),
        second + second_moment(features, column),
    )


def strip_height(size: int) -> int:
    """Rows of each strip of a matrix (size, size); the last ones can be padding."""
    return -(-size // STRIPS)


def strip_widths(size: int) -> list[int]:
    """Columns of each strip, from its own block of the diagonal to the right end."""
    height = strip_height(size)
    return [height * (STRIPS - strip) for strip in range(STRIPS)]


def second_shape(size: int) -> tuple[int, int]:
    """Of the second moment of ``size`` features, as it is kept: its strips beside one another."""
    return strip_height(size), sum(strip_widths(size))


def second_moment(features: Tensor, column: Tensor) -> Tensor:
    """Weighted sum of x x' over rows (B, D), weights (B, 1), in strips: ``second_shape(D)``."""
    size, height = features.shape[1], strip_height(features.shape[1])
    x = F.pad(features, (0, height * STRIPS - size))
    weighted = x * column
    starts = range(0, height * STRIPS, height)
    return torch.cat([product(weighted[:, s : s + height], x[:, s:], turn_a=True) for s in starts], 1)


def symmetric(second: Tensor, size: int) -> Tensor:
    """(size, size) from its strips: what is left of the diagonal's blocks is what lies above them, turned."""
    height, widths, rows = strip_height(size), strip_widths(size), list[Tensor]()
    ends = list(itertools.accumulate(widths))
    kept = [second[:, end - width : end] for width, end in zip(widths, ends, strict=True)]
    for number, strip in enumerate(kept):
        left = [above[:, (number - n) * height :][:, :height].T for n, above in enumerate(kept[:number])]
        rows.append(torch.cat([*left, strip], 1) if left else strip)
    return torch.cat(rows, 0)[:size, :size]


def diagonal(a: Tensor) -> Tensor:
    """The diagonal of (n, n) as (n, 1): a row longer by one, and the diagonal is the first column."""
    n = a.shape[0]
    return F.pad(a.reshape(1, n * n), (0, n)).reshape(n, n + 1)[:, :1]


def as_diagonal(values: Tensor) -> Tensor:
    """(n, 1) as the diagonal of (n, n); without an identity matrix, which would be a constant of n * n numbers."""
    n = values.shape[0]
    return F.pad(values, (0, n)).reshape(1, n * (n + 1))[:, : n * n].reshape(n, n)


def inverse(a: Tensor) -> Tensor:
    """Inverse of a symmetric positive definite (n, n) matrix by Newton-Schulz: X <- 2 X - X A X, products only.

    Starts at I / ||A||_F, which converges because every eigenvalue of A X then lies in (0, 1].
    """
    size = a.shape[0]
    norm = torch.sqrt(column_sums(row_sums(a * a)))
    ones = frozen(lambda: torch.ones(size, 1))
    x, a = as_diagonal(ones / norm).reshape(1, size, size), a.reshape(1, size, size)
    for _ in range(INVERSE_ITERATIONS):
        x = x * 2.0 - torch.bmm(x, torch.bmm(a, x))
    return x.reshape(size, size)


def linear_head(
    count: Tensor, total: Tensor, second: Tensor, mask: Tensor, shrinkage: Tensor, ridge: Tensor
) -> tuple[Tensor, Tensor]:
    """A linear head from the statistics: a discriminant, or ridge regression to one-hot labels.

    Both are means times an inverse of (1 - s) C + s tr(C)/D I. For the discriminant C is the covariance within
    classes; for ridge regression it is that of all samples, a class's mean counts by its share and from the mean of
    all, and the intercept is free (ACIL, Zhuang et al. 2022, is its recursive form; sums give the same at any time).

    Args:
        count, total, second: as in :func:`accumulate`.
        mask: (slots,), 1 for a class that exists.
        shrinkage: (1,), s; 1 is nearest class mean.
        ridge: (1,), 0 for the discriminant, 1 for ridge regression.

    Returns:
        weight (slots, D) and bias (slots,); zero for classes that do not exist.
    """
    size, there = total.shape[1], mask.reshape(-1, 1)
    present = (count * mask).reshape(-1, 1)
    number = column_sums(present).clamp(min=1.0)
    means, shares = total * (there / present.clamp(min=1.0)), present / number
    centre = column_sums(total * there) / number
    between = product(means * present, means, turn_a=True) / number
    spread = symmetric(second, size) / number - between * (1.0 - ridge) - product(centre, centre, turn_a=True) * ridge
    ones = frozen(lambda: torch.ones(size, 1))
    level = (column_sums(diagonal(spread)) * (1.0 / size)).clamp(min=SMALLEST_VARIANCE)
    inverted = inverse(spread * (1.0 - shrinkage) + as_diagonal(ones * (level * shrinkage.reshape(1, 1))))
    targets = means * (1.0 - ridge) + (means - centre) * shares * ridge
    weight = product(targets, inverted)
    bias = row_sums(weight * means) * (-0.5 * (1.0 - ridge)) + (shares - row_sums(weight * centre)) * ridge
    return weight, (bias * there).reshape(-1)
