"""How much each filter matters to each class: how active it is, and what it contributes to the class's logit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from pocketstep.data import Dataset
from pocketstep.decouple.region import Region

Prepare = Callable[[Any], Tensor]
"""uint8 images (N, H, W, C) to normalised floats (N, C, H, W)."""


@dataclass(frozen=True)
class Scores:
    """Of one channel set, (classes, channels) each.

    Attributes:
        activation: the mean of |a| over a class's images and the map.
        contribution: the mean of a * dz/da over the same, z the class's own logit (gradient times input: to first
            order what the filter adds to the logit).
    """

    activation: Tensor
    contribution: Tensor

    @property
    def ranks(self) -> Tensor:
        """The mean of both criteria's ranks, (classes, channels): 0 for the filter that matters least."""
        return (_ranks(self.activation) + _ranks(self.contribution)) / 2

    def agreement(self) -> Tensor:
        """Spearman's rank correlation of the two criteria, a class each."""
        a, b = (_ranks(v) - (v.shape[1] - 1) / 2 for v in (self.activation, self.contribution))
        correlation: Tensor = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)).clamp(min=1e-12)
        return correlation

    def overlap(self, count: int) -> Tensor:
        """Share of the ``count`` best filters by one criterion that are among the best by the other, a class each."""
        tops = [v.topk(count, dim=1).indices for v in (self.activation, self.contribution)]
        return (tops[0][:, :, None] == tops[1][:, None, :]).any(2).float().mean(1)


def score_filters(region: Region, data: Dataset, prepare: Prepare, batch: int = 64) -> dict[int, Scores]:
    """Scores of every channel set of a region, by the set's number.

    Args:
        region: of the network to be split; it is not changed.
        data: some images of every class, in the order of the network's outputs.
        prepare: how images are normalised.
        batch: images at once.
    """
    runner = _Recorder(region.traced, {name: number for number, name in region.measured.items()})
    parts = [_of_class(runner, data, label, prepare, batch) for label in range(len(data.classes))]
    return {
        number: Scores(torch.stack([p[number][0] for p in parts]), torch.stack([p[number][1] for p in parts]))
        for number in region.measured
    }


def _of_class(
    runner: _Recorder, data: Dataset, label: int, prepare: Prepare, batch: int
) -> dict[int, tuple[Tensor, Tensor]]:
    images = data.images[data.labels == label]
    sums: dict[int, tuple[Tensor, Tensor]] = {}
    for start in range(0, len(images), batch):
        part = prepare(images[start : start + batch])
        with torch.enable_grad():
            logits = runner.run(part.requires_grad_())  # frozen weights would leave nothing to differentiate
            maps = dict(runner.maps)
            gradients = torch.autograd.grad(logits[:, label].sum(), list(maps.values()))
        for (number, a), g in zip(maps.items(), gradients, strict=True):
            found = (a.detach().abs().mean((2, 3)).sum(0), (a.detach() * g).mean((2, 3)).sum(0))
            before = sums.get(number)
            sums[number] = found if before is None else (before[0] + found[0], before[1] + found[1])
    return {number: (a / len(images), c / len(images)) for number, (a, c) in sums.items()}


def _ranks(values: Tensor) -> Tensor:
    return values.argsort(dim=1).argsort(dim=1).float()


class _Recorder(fx.Interpreter):
    """Runs the network and keeps the maps of some nodes."""

    def __init__(self, traced: fx.GraphModule, wanted: Mapping[str, int]) -> None:
        super().__init__(traced)
        self._wanted = wanted
        self.maps: dict[int, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Keeps the map where it is wanted."""
        result = super().run_node(n)
        if n.name in self._wanted:
            self.maps[self._wanted[n.name]] = result
        return result
