"""Closed-form heads on frozen features: statistics that add up sample by sample, and what they give.

Streaming LDA (Hayes and Kanan 2020): class means and one shared covariance; logits are x' S^-1 m - m' S^-1 m / 2.
With the covariance shrunk all the way to a multiple of the identity the same formula is the nearest class mean.
In some directions a class can have a covariance of its own (``class_covariances``).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pocketstep.compile.class_covariances import correction
from pocketstep.compile.operators import column_sums, frozen, product, row_sums
from pocketstep.compile.strips import second_moment, symmetric

INVERSE_ITERATIONS = 18  # about 2 log2(condition): enough for the 10^3 that shrinkage leaves

SMALLEST_VARIANCE = 1e-6
"""Of features whose mean square is one: identical samples still give a matrix with an inverse."""


def accumulate(
    count: Tensor, total: Tensor, second: Tensor, features: Tensor, labels: Tensor, weights: Tensor, size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Adds samples to the statistics; a negative weight takes a sample out again.

    Args:
        count: (slots,), total: (slots, D + K), second: uncentred, ``second_shape(D)``.
        features: (B, D + K), of which the last K, outer products, need no second moment; size: D.
        labels: (B, slots) one-hot, weights: (B,), 0 for padding.
    """
    column = weights.reshape(-1, 1)
    chosen = labels * column
    return (
        count + column_sums(chosen).reshape(-1),
        total + product(chosen, features, turn_a=True),
        second + second_moment(features[:, :size], column),
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
    count: Tensor, total: Tensor, second: Tensor, mask: Tensor, shrinkage: Tensor, ridge: Tensor,
    own: Tensor | None = None, directions: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """A head that is linear in the joined features: a discriminant, or ridge regression to one-hot labels.

    Both are means times an inverse of (1 - s) C + s tr(C)/D I. For the discriminant C is the covariance within
    classes; for ridge regression it is that of all samples, a class's mean counts by its share and from the mean of
    all, and the intercept is free (ACIL, Zhuang et al. 2022, is its recursive form; sums give the same at any time).

    Args:
        count, total, second: as in :func:`accumulate`.
        mask: (slots,), 1 for a class that exists.
        shrinkage: (1,), s; 1 is nearest class mean.
        ridge: (1,), 0 for the discriminant, 1 for ridge regression.
        own: (1,), 1 for covariances of each class's own along ``directions`` (k, D), 0 for one of all.

    Returns:
        weight (slots, D + K) and bias (slots,); zero for classes that do not exist.
    """
    size, there = total.shape[1] if directions is None else directions.shape[1], mask.reshape(-1, 1)
    present = (count * mask).reshape(-1, 1)
    number = column_sums(present).clamp(min=1.0)
    every, shares = total * (there / present.clamp(min=1.0)), present / number
    means, centre = every[:, :size], column_sums(total[:, :size] * there) / number
    between = product(means * present, means, turn_a=True) / number
    spread = symmetric(second, size) / number - between * (1.0 - ridge) - product(centre, centre, turn_a=True) * ridge
    ones = frozen(lambda: torch.ones(size, 1))
    level = (column_sums(diagonal(spread)) * (1.0 / size)).clamp(min=SMALLEST_VARIANCE)
    shrunk = spread * (1.0 - shrinkage) + as_diagonal(ones * (level * shrinkage.reshape(1, 1)))
    inverted = inverse(shrunk)
    targets = means * (1.0 - ridge) + (means - centre) * shares * ridge
    weight = product(targets, inverted)
    weight = weight + product(targets - product(weight, shrunk), inverted)  # what rounding took from the inverse
    bias = row_sums(weight * means) * (-0.5 * (1.0 - ridge)) + (shares - row_sums(weight * centre)) * ridge
    if directions is not None and own is not None:
        quadratic, constant = correction(present, every[:, size:], directions, shrinkage, level, own)
        weight, bias = torch.cat([weight, quadratic], 1), bias + constant
    return weight, (bias * there).reshape(-1)
