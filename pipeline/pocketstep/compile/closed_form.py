"""Closed-form heads on frozen features: statistics that add up sample by sample, and what they give.

Streaming LDA (Hayes and Kanan 2020): class means and one shared covariance; logits are x' S^-1 m - m' S^-1 m / 2.
With the covariance shrunk all the way to a multiple of the identity the same formula is the nearest class mean.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pocketstep.compile.operators import column_sums, frozen, grid_pool, product, row_sums

INVERSE_ITERATIONS = 18  # about 2 log2(condition): enough for the 10^3 that shrinkage leaves

WIDEST = 1024
"""Of a part of the joined features: wider ones are sketched, or their second moment would outgrow the network."""

SMALLEST_VARIANCE = 1e-6
"""Of features whose mean square is one: identical samples still give a matrix with an inverse."""


def unit(x: Tensor) -> Tensor:
    """Rows (B, D) scaled to length sqrt(D), so that joined parts weigh by their size."""
    return x * torch.rsqrt(row_sums(x * x) * (1.0 / x.shape[1]) + 1e-12)


def sketched_size(width: int) -> int:
    """Columns of :func:`sketched` for a part of ``width`` columns."""
    return -(-width // -(-width // WIDEST))


def sketched(x: Tensor) -> Tensor:
    """Rows (B, D) with neighbours added up under random signs, a count sketch: (B, sketched_size(D)).

    Products of two rows keep their expectation (Charikar et al. 2002), so that a covariance of a layer of 4,096
    neurons (VGG, AlexNet) takes 4 MB and not 64. Up to 1,024 columns nothing is changed.
    """
    width = x.shape[1]
    group = -(-width // WIDEST)
    if group == 1:
        return x
    size = sketched_size(width)
    signs = frozen(lambda: torch.randint(0, 2, (width,), generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0)
    padded = F.pad(x * signs, (0, size * group - width))
    return row_sums(padded.reshape(x.shape[0] * size, group)).reshape(x.shape[0], size)


def joined_features(latent: Tensor, features: Tensor, cells: int, origin: Tensor) -> Tensor:
    """Penultimate features (B, D) joined with the latent (B, h, w, c) pooled over a grid: (B, D' + cells^2 c).

    D' is :func:`sketched_size`. With no cells there are the features alone. ``origin`` (D' + cells^2 c,), the cloud's
    mean, is subtracted: a discriminant does not depend on it, but without it the covariance is a small difference of
    large sums, which costs a digit of fp32.
    """
    known = unit(sketched(features))
    return (torch.cat([known, unit(grid_pool(latent, cells))], 1) if cells else known) - origin


def accumulate(
    count: Tensor, total: Tensor, second: Tensor, features: Tensor, labels: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Adds samples to the statistics; a negative weight takes a sample out again.

    Args:
        count: (slots,), total: (slots, D), second: (D, D) uncentred.
        features: (B, D), labels: (B, slots) one-hot, weights: (B,), 0 for padding.
    """
    column = weights.reshape(-1, 1)
    chosen = labels * column
    return (
        count + column_sums(chosen).reshape(-1),
        total + product(chosen, features, turn_a=True),
        second + product(features * column, features, turn_a=True),
    )


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
    size, there = second.shape[0], mask.reshape(-1, 1)
    present = (count * mask).reshape(-1, 1)
    number = column_sums(present).clamp(min=1.0)
    means, shares = total * (there / present.clamp(min=1.0)), present / number
    centre = column_sums(total * there) / number
    between = product(means * present, means, turn_a=True) / number
    spread = second / number - between * (1.0 - ridge) - product(centre, centre, turn_a=True) * ridge
    ones = frozen(lambda: torch.ones(size, 1))
    level = (column_sums(diagonal(spread)) * (1.0 / size)).clamp(min=SMALLEST_VARIANCE)
    inverted = inverse(spread * (1.0 - shrinkage) + as_diagonal(ones * (level * shrinkage.reshape(1, 1))))
    targets = means * (1.0 - ridge) + (means - centre) * shares * ridge
    weight = product(targets, inverted)
    bias = row_sums(weight * means) * (-0.5 * (1.0 - ridge)) + (shares - row_sums(weight * centre)) * ridge
    return weight, (bias * there).reshape(-1)
