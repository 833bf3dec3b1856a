"""Classes of different spread: the closed form's discriminant made quadratic in a few directions.

A linear discriminant gives all classes one covariance. Those of the features a network was not trained for differ, so
along ``k`` directions each class has one of its own, shrunk towards the shared one (regularised discriminant analysis,
Friedman 1989; FeCAM, Goswami et al. 2023, keeps one of all features a class). Given these directions, the others are
as before. What a class adds is the sum of z z' over its samples' places z along them: k (k + 1) / 2 numbers that
accumulate sample by sample and can be taken out again, like its mean.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from pocketstep.compile.operators import column_sums, frozen, product, row_sums
from pocketstep.compile.operators.layout import joined
from pocketstep.compile.strips import STRIPS, kept_values, outer_products, quadratic_weights, symmetric_each

MOST_DIRECTIONS = 64
MOST_VALUES = 1 << 18
"""Of all classes' sums together: a MiB."""
EQUAL_SAMPLES = 500.0
"""So many samples make a class's own covariance count as much as the shared one."""
SMALLEST_SHARE = 1e-3
"""Of the largest variance: directions of less have nothing to tell."""
SMALLEST_PIVOT = 1e-6


def count_directions(wanted: int | None, size: int, slots: int) -> int:
    """How many directions, a multiple of ``STRIPS``: as asked for, or what fits; at most a half of ``size``."""
    fits = range(0, min(MOST_DIRECTIONS if wanted is None else wanted, size // 2) + 1, STRIPS)
    return max(k for k in fits if k == 0 or wanted is not None or kept_values(k) * slots <= MOST_VALUES)


def directions_of(features: Tensor, count: int) -> Tensor:
    """The cloud's main directions, scaled to variance one: (k, D), k at most ``count`` and a multiple of ``STRIPS``.

    Args:
        features: (N, D) of the cloud's images, their mean zero.
        count: most directions.
    """
    variances, vectors = torch.linalg.eigh(features.double().T @ features.double() / len(features))
    variances, vectors = variances.flip(0), vectors.flip(1)
    there = int((variances > SMALLEST_SHARE * variances[0]).sum())
    kept = min(count, there, len(features) - 1) // STRIPS * STRIPS
    directions: Tensor = (vectors[:, :kept] / variances[:kept].sqrt()).T
    return directions.to(features.dtype)


def turned(directions: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """Directions turned within their span so that the covariance that classes share is diagonal there, too.

    The discriminant is the same whatever the axes. But a trained network's classes are narrow where they lie apart:
    along axes of their own, what float32 loses there stays there. Variances stay one and not more, because a sweep's
    inverses are exact where they are one or more.

    Args:
        directions: (k, D), of which those of all features are uncorrelated, of variance one.
        features: (N, D); labels: (N,), of the cloud's images.
    """
    within = features.double().clone()
    for label in set(labels.tolist()):
        within[labels == label] -= within[labels == label].mean(0)
    places = within @ directions.double().T
    axes: Tensor = torch.linalg.eigh(places.T @ places).eigenvectors.T @ directions.double()
    return axes.to(directions.dtype)


def with_places(x: Tensor, directions: Tensor) -> Tensor:
    """Rows (B, D), their places along ``directions`` (k, D), and these places' outer products: (B, D + added(k))."""
    places = product(x, frozen(lambda: directions.detach().T.contiguous()))
    return torch.cat([x, places, outer_products(places)], 1)


def added(count: int) -> int:
    """Columns that :func:`with_places` adds for so many directions."""
    return count + kept_values(count)


def correction(
    present: Tensor, means: Tensor, directions: Tensor, shrinkage: Tensor, level: Tensor, own: Tensor
) -> tuple[Tensor, Tensor]:
    """What to add to a linear discriminant: the directions' quadratic form less what it already says of them.

    Of a sample at z, a class at m with covariance C = (1 - a) S + a S_c, S the shared one:
    (z - m)' (S^-1 - C^-1) (z - m) / 2 - log(|C| / |S|) / 2. All classes have the same a = own n / (n + EQUAL_SAMPLES),
    n the harmonic mean of their samples: a class of few samples has hardly a shape, and would lose to those that do.

    Args:
        present: (slots, 1), samples of each class, 0 for one that does not exist.
        means: (slots, added(k)), of what :func:`with_places` added to their features.
        directions: (k, D).
        shrinkage: (1,), share of the identity in the features' covariance; level: (1, 1), its height.
        own: (1,), 0 for the linear discriminant, 1 for the quadratic one.

    Returns:
        Weights of what was added, (slots, added(k)), and biases (slots, 1).
    """
    slots, count = len(present), len(directions)
    there, places = present.clamp(max=1.0), means[:, :count]
    each = column_sums(there) / column_sums(there / present.clamp(min=1.0)).clamp(min=SMALLEST_PIVOT)
    share = own.reshape(1, 1) * each / (each + EQUAL_SAMPLES) * there
    apart = places.reshape(slots, count, 1) * places.reshape(slots, 1, count)
    spread = symmetric_each(means[:, count:], count) - apart
    within = product((present / column_sums(present).clamp(min=1.0)).T, spread.reshape(slots, count * count))
    identity = frozen(lambda: (directions @ directions.T).detach())  # of the features, as the directions see it
    shared = within.reshape(count, count) * (1.0 - shrinkage) + identity * (level * shrinkage.reshape(1, 1))
    shared = shared.reshape(1, count, count)
    covariances = shared + (spread - shared) * share.reshape(slots, 1, 1)
    inverses, logs = inverse_and_log_determinant(torch.cat([covariances, shared], 0))
    form = inverses[slots:] - inverses[:slots]
    pull = torch.bmm(form, places.reshape(slots, count, 1)).reshape(slots, count)
    bias = (row_sums(places * pull) - logs[:slots] + logs[slots:]) * 0.5
    return torch.cat([pull * -1.0, quadratic_weights(form) * 0.5], 1), bias


def inverse_and_log_determinant(a: Tensor) -> tuple[Tensor, Tensor]:
    """Of symmetric positive definite matrices (N, k, k): inverses, and logarithms (N, 1).

    Sweeps every pivot once (Goodnight 1979): column and row, the same numbers, are shortened by one at the pivot, so
    that a single outer product changes them too; it leaves 2 too many on the diagonal.
    """
    count, size = a.shape[:2]
    pivots = list[Tensor]()
    for at in range(size):
        one = frozen(partial(_one, size, at))
        column = a[:, :, at : at + 1]
        pivot = column[:, at : at + 1].clamp(min=SMALLEST_PIVOT)
        column = column - one
        a = a - column * (column.reshape(count, 1, size) / pivot)
        pivots.append(pivot)
    return frozen(lambda: 2.0 * torch.eye(size)) - a, row_sums(torch.log(joined(pivots, 1)).reshape(count, size))


def _one(size: int, at: int) -> Tensor:
    """A column (1, size, 1) of zeros with a one."""
    return F.one_hot(torch.tensor(at), size).to(torch.get_default_dtype()).reshape(1, size, 1)
