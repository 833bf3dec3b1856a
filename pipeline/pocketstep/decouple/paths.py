"""Which filters make each class's path."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from pocketstep.decouple.region import Region
from pocketstep.decouple.scores import Scores
from pocketstep_device.errors import InputError

_SETTING = re.compile(r"(\d{1,3})_(\d{1,3}(?:\.\d+)?)%?")


@dataclass(frozen=True)
class Agreement:
    """How the two criteria agree on one channel set, means over classes.

    Attributes:
        layer: the first convolution of the set.
        filters, kept: before, and of one path.
        overlap: share of a path's filters that both criteria would choose.
        correlation: Spearman's, over all filters.
        shared: share of the chosen filters that more than one path has a copy of.
    """

    layer: str
    filters: int
    kept: int
    overlap: float
    correlation: float
    shared: float


@dataclass(frozen=True)
class Paths:
    """Filters by channel set: (classes, width), sorted; and how they were found."""

    filters: dict[int, Tensor]
    agreements: tuple[Agreement, ...]

    def report(self, classes: tuple[str, ...], region: Region) -> dict[str, Any]:
        """For people and JSON: of each set the agreement of the criteria, and each class's filters."""
        sets = []
        for number, agreement in zip(self.filters, self.agreements, strict=True):
            layers = [name for name in region.layers if region.members[name] == number]
            chosen = {c: rows.tolist() for c, rows in zip(classes, self.filters[number], strict=True)}
            sets.append({**asdict(agreement), "layers": layers, "chosen": chosen})
        return {"asked_layers": region.asked, "layers": list(region.layers), "sets": sets}


def parse_setting(text: str) -> tuple[int, float]:
    """``3_4%`` (TeAM's way to write it) as (3, 0.04): convolutions that are split, and a path's share of filters.

    Raises:
        InputError: something else.
    """
    found = _SETTING.fullmatch(text.strip())
    if not found or not int(found[1]) or not 0 < float(found[2]) <= 100:
        raise InputError(
            f"'{text}' is no setting of paths: give LAYERS_PERCENT, such as 3_4% for the last 3 "
            "convolutions with 4 % of the filters a path"
        )
    return int(found[1]), float(found[2]) / 100


def choose_paths(region: Region, scores: dict[int, Scores], share: float) -> Paths:
    """The best filters of each class by the mean of both criteria's ranks.

    Every path of a layer is equally wide, so that a layer is one grouped convolution; two paths may each have a copy of
    a filter that matters to both.

    Args:
        region: what is split.
        scores: of its channel sets.
        share: of a layer's filters that a path gets, at least one.
    """
    filters, agreements = {}, []
    for number, width in region.widths.items():
        kept = max(1, round(share * width))
        found = scores[number]
        chosen = found.ranks.topk(kept, dim=1).indices.sort(dim=1).values
        counts = torch.bincount(chosen.flatten(), minlength=width)
        layer = next(name for name in region.layers if region.members[name] == number)
        both, correlation = float(found.overlap(kept).mean()), float(found.agreement().mean())
        copied = float((counts[chosen.flatten()] > 1).float().mean())
        agreements.append(Agreement(layer, width, kept, both, correlation, copied))
        filters[number] = chosen
    return Paths(filters, tuple(agreements))
