"""How a value lies: ATen's dimensions in any order, so that permutations cost nothing until something needs an order.

A feature map, (N, C, H, W) to ATen, lies as (N, H, W, C) unless the network permutes it itself, as ConvNeXt does: then
only the order changes. Views keep the order too, as far as what they merge lies side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from torch import Tensor

Order = tuple[int, ...]
"""Axis i of the stored tensor is ATen's dimension ``order[i]``."""

MAP: Order = (0, 2, 3, 1)


def standard(rank: int) -> Order:
    """The order in which operators take values: channels last for maps, else ATen's."""
    return MAP if rank == 4 else tuple(range(rank))


@dataclass(frozen=True)
class Laid:
    """A tensor and how it lies."""

    tensor: Tensor
    order: Order

    @staticmethod
    def standard(tensor: Tensor) -> Laid:
        """A tensor that lies as operators take it."""
        return Laid(tensor, standard(tensor.dim()))

    @staticmethod
    def plain(tensor: Tensor) -> Laid:
        """A tensor that lies as ATen sees it."""
        return Laid(tensor, tuple(range(tensor.dim())))

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.order)

    @property
    def shape(self) -> tuple[int, ...]:
        """ATen's shape."""
        return tuple(self.tensor.shape[self.axis(dimension)] for dimension in range(self.rank))

    def axis(self, dimension: int) -> int:
        """Where one of ATen's dimensions lies."""
        return self.order.index(dimension % self.rank)

    def to(self, order: Order) -> Tensor:
        """The tensor in another order: as it is, reshaped where only sizes of 1 move, or permuted."""
        if order == self.order:
            return self.tensor
        axes = [self.order.index(dimension) for dimension in order]
        moving = [axis for axis in axes if self.tensor.shape[axis] > 1]
        shape = [self.tensor.shape[axis] for axis in axes]
        if moving == sorted(moving):
            return self.tensor.reshape(shape)
        return self.tensor.permute(axes) if self.rank <= 4 else _permuted(self.tensor, moving).reshape(shape)

    def permuted(self, dimensions: Sequence[int]) -> Laid:
        """ATen's permutation: another order of the same tensor."""
        places = [dimension % self.rank for dimension in dimensions]
        return Laid(self.tensor, tuple(places.index(dimension) for dimension in self.order))

    def viewed(self, shape: Sequence[int]) -> Laid:
        """ATen's view: what is merged must lie side by side, everything else stays where it is."""
        groups = _groups(self.shape, shape)
        groups.sort(key=lambda group: self.axis(group[0][0]))
        ones = [dimension for dimension, size in enumerate(self.shape) if size == 1]
        tensor = self.to((*(dimension for own, _ in groups for dimension in own), *ones))
        new_ones = [dimension for dimension, size in enumerate(shape) if size == 1]
        order = (*(dimension for _, new in groups for dimension in new), *new_ones)
        return Laid(tensor.reshape([shape[dimension] for dimension in order]), order)

    def without(self, dimensions: Sequence[int]) -> Laid:
        """With dimensions of size 1 removed."""
        gone = {dimension % self.rank for dimension in dimensions}
        kept = [dimension for dimension in range(self.rank) if dimension not in gone]
        order = tuple(kept.index(dimension) for dimension in self.order if dimension not in gone)
        return Laid(self.tensor.reshape([self.shape[kept[place]] for place in order]), order)

    def aligned(self, order: Order) -> Tensor:
        """As an operand of a result of that order: dimensions that broadcasting adds in front have size 1."""
        added = len(order) - self.rank
        tensor = self.to(tuple(dimension - added for dimension in order if dimension >= added))
        if added == 0:
            return tensor
        sizes = iter(tensor.shape)
        return tensor.reshape([1 if dimension < added else next(sizes) for dimension in order])


def _permuted(tensor: Tensor, axes: Sequence[int]) -> Tensor:
    """A permutation of high rank with neighbours that stay neighbours merged, as delegates want few axes."""
    runs: list[list[int]] = []
    named = sorted(axes)
    for axis in axes:
        follows = runs and named.index(axis) == named.index(runs[-1][-1]) + 1
        runs[-1].append(axis) if follows else runs.append([axis])
    lying = sorted(range(len(runs)), key=lambda index: runs[index][0])
    merged = tensor.reshape([prod(tensor.shape[axis] for axis in runs[index]) for index in lying])
    return merged.permute([lying.index(index) for index in range(len(runs))])


def _groups(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The smallest groups of dimensions of both shapes that hold the same elements; sizes of 1 left out."""
    left = [(d, size) for d, size in enumerate(old) if size > 1]
    right = [(d, size) for d, size in enumerate(new) if size > 1]
    groups: list[tuple[list[int], list[int]]] = []
    while left or right:
        (first, size), (second, other) = left.pop(0), right.pop(0)
        own, others = [first], [second]
        while size != other:
            if size < other:
                dimension, more = left.pop(0)
                own, size = [*own, dimension], size * more
            else:
                dimension, more = right.pop(0)
                others, other = [*others, dimension], other * more
        groups.append((own, others))
    return groups
