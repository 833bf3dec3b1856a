"""The closed-form head as the oracle makes it: in double precision, with true inverses, class by class."""

from __future__ import annotations

import torch
from torch import Tensor

from pocketstep.compile.class_covariances import EQUAL_SAMPLES
from pocketstep.compile.joined_features import random_signs, transformed_width, walsh
from pocketstep.compile.signatures import LearningModel, Values
from pocketstep.compile.strips import STRIPS, second_shape


@torch.no_grad()
def statistics(model: LearningModel, v: Values) -> dict[str, Tensor]:
    """Sums in double precision."""
    features, labels, weights = (v[k].double() for k in ("features", "labels", "label_weights"))
    joined = features[:, : model.joined_size]
    moment = torch.einsum("bd,b,be->de", joined, weights, joined)
    return {
        "count": (v["count"] + torch.einsum("bc,b->c", labels, weights)).float(),
        "total": (v["total"] + torch.einsum("bc,b,bd->cd", labels, weights, features)).float(),
        "second": (v["second"] + _in_strips(moment)).float(),
    }


@torch.no_grad()
def solve(model: LearningModel, v: Values) -> dict[str, Tensor]:
    """The discriminant or the ridge regression with a true inverse, in double precision."""
    count, total, kept, mask = (v[k].double() for k in ("count", "total", "second", "class_mask"))
    size = model.joined_size
    second = _from_strips(kept, size)
    there = (count * mask) > 0
    every = torch.zeros_like(total)
    every[there] = total[there] / count[there, None]
    means = every[:, :size]
    number, shares = (count * mask).sum(), count * mask / (count * mask).sum()
    shrinkage, ridge = float(v["shrinkage"]), bool(v["ridge"] > 0.5)
    centre = (means * shares[:, None]).sum(0)
    within = second / number - (means * shares[:, None]).T @ means
    spread = second / number - torch.outer(centre, centre) if ridge else within
    identity = spread.diagonal().mean().clamp(min=1e-6) * torch.eye(len(second), dtype=torch.double)
    covariance = torch.lerp(spread, identity, shrinkage)
    targets = (means - centre) * shares[:, None] if ridge else means
    weight = torch.linalg.solve(covariance, targets.T).T
    bias = shares - weight @ centre if ridge else -0.5 * (weight * means).sum(1)
    if (axes := model.directions) is not None:
        each = 1 / (1 / count[there]).mean() if there.any() else torch.zeros(())
        share = float(v["own"]) * each / (each + EQUAL_SAMPLES)
        shared = axes.double() @ torch.lerp(within, identity, shrinkage) @ axes.double().T
        weight, bias = _own_covariances(weight, bias, every[:, size:], shared, share, there)
    return {"closed.weight": weight.float(), "closed.bias": (bias * (mask > 0)).float()}


def random_matrix(width: int, size: int) -> Tensor:
    """What ``joined_features.expanded`` multiplies with, (width, size), entry by entry."""
    whole = transformed_width(width)
    right = 1 << (whole.bit_length() // 2)
    order = torch.arange(whole).reshape(whole // right, right).T.flatten()
    transform = torch.kron(walsh(whole // right), walsh(right))[:, order]
    blocks = []
    for block in range(-(-size // whole)):
        first, second = (torch.diag(random_signs(block, turn, whole)) for turn in range(2))
        blocks.append(first @ transform @ second @ transform)
    return torch.cat(blocks, 1)[:width, :size]


def _own_covariances(
    weight: Tensor, bias: Tensor, moments: Tensor, shared: Tensor, share: Tensor, there: Tensor
) -> tuple[Tensor, Tensor]:
    """A linear discriminant with the log ratio of two normal densities added, class by class.

    ``moments`` are means of places along the axes and of their outer products, ``shared`` the covariance of all there.
    """
    axes = len(shared)
    places = moments[:, :axes]
    forms = torch.zeros(len(places), *shared.shape, dtype=torch.double)
    pulls, bias = torch.zeros_like(places), bias.clone()
    for slot in torch.nonzero(there)[:, 0]:
        own = _from_rows(moments[slot, axes:], axes) - torch.outer(places[slot], places[slot])
        mine = (1 - share) * shared + share * own
        forms[slot] = (torch.linalg.inv(shared) - torch.linalg.inv(mine)) / 2
        bias[slot] += places[slot] @ forms[slot] @ places[slot] - (torch.logdet(mine) - torch.logdet(shared)) / 2
        pulls[slot] = -2 * forms[slot] @ places[slot]
    height = axes // STRIPS
    twice = 2 - torch.kron(torch.eye(STRIPS), torch.ones(height, height))  # what is left of the strips' own blocks
    return torch.cat([weight, pulls, strips_of(forms * twice)], 1), bias


def strips_of(matrices: Tensor) -> Tensor:
    """Symmetric matrices (N, k, k) as ``strips.outer_products`` lays them out, (N, kept_values(k))."""
    height = matrices.shape[1] // STRIPS
    return torch.cat([matrices[:, at : at + height, at:].flatten(1) for at in range(0, height * STRIPS, height)], 1)


def _from_rows(kept: Tensor, size: int) -> Tensor:
    """The symmetric matrix (size, size) of one row of :func:`strips_of`."""
    rows, columns = torch.triu_indices(size, size)
    height = size // STRIPS
    starts = torch.tensor([sum(height * (size - height * n) for n in range(strip)) for strip in range(STRIPS)])
    strip = rows // height
    width = size - strip * height
    full = torch.zeros(size, size, dtype=kept.dtype)
    full[rows, columns] = kept[starts[strip] + (rows - strip * height) * width + columns - strip * height]
    return full + full.triu(1).T


def _in_strips(full: Tensor) -> Tensor:
    """A symmetric matrix as ``strips.second_moment`` lays it out."""
    height, width = second_shape(len(full))
    square = torch.zeros(height * STRIPS, height * STRIPS, dtype=full.dtype)
    square[: len(full), : len(full)] = full
    strips = [square[at : at + height, at:] for at in range(0, height * STRIPS, height)]
    return torch.cat(strips, 1).reshape(height, width)


def _from_strips(kept: Tensor, size: int) -> Tensor:
    """The symmetric matrix (size, size) of :func:`_in_strips`."""
    height, at = len(kept), 0
    square = torch.zeros(height * STRIPS, height * STRIPS, dtype=kept.dtype)
    for top in range(0, height * STRIPS, height):
        width = height * STRIPS - top
        square[top : top + height, top:] = kept[:, at : at + width]
        at += width
    return (square.triu() + square.triu(1).T)[:size, :size]
