"""A network whose last layers are one path a class: grouped convolutions, a head of blocks, nothing in between."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pocketstep.decouple.paths import Paths
from pocketstep.decouple.region import Region
from pocketstep_device.errors import InputError

OTHER = "other"
"""Name of a one-vs-all network's second output."""


@dataclass(frozen=True)
class Decoupling:
    """How a network is split, so that its file can be read again and its paths be found.

    Attributes:
        classes: path i belongs to class i; spare paths follow.
        spare: paths of classes that are not known yet, with random weights.
        layers: split convolution -> its groups: 1 where it sees the shared map (its outputs are the paths'), the number
            of paths where each path sees its own, 0 where it is depthwise.
        norms: batch norms of the paths.
        head: the linear layer; the row of class i sees path i only.
        rest: whether the head has one more row, ``other``, that sees the single path too (one-vs-all).
    """

    classes: tuple[str, ...]
    spare: int
    layers: dict[str, int] = field(hash=False)
    norms: tuple[str, ...]
    head: str
    rest: bool = False

    @property
    def paths(self) -> int:
        """How many, spare ones among them."""
        return len(self.classes) + self.spare

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the network's outputs."""
        return (*self.classes, OTHER) if self.rest else self.classes


def decoupling_of(model: nn.Module) -> Decoupling | None:
    """How the network is split, if it is."""
    found = getattr(model, "decoupling", None)
    return found if isinstance(found, Decoupling) else None


def mark_decoupled(model: nn.Module, decoupling: Decoupling) -> None:
    """Writes down in the network how it is split."""
    model.decoupling = decoupling  # type: ignore[assignment]


def need_decoupling(model: nn.Module) -> Decoupling:
    """As ``decoupling_of``.

    Raises:
        InputError: the network is not split.
    """
    found = decoupling_of(model)
    if found is None:
        raise InputError("this network has no paths: make them with 'pocketstep decouple RECIPE'")
    return found


def decouple(
    model: nn.Module, region: Region, paths: Paths, classes: tuple[str, ...], *, spare: int = 0, seed: int = 0
) -> nn.Module:
    """Splits a network; weights within a path are inherited, those between two paths are gone.

    Every filter of a path sees its path's maps only (TeAM §2.1); the first split layers see all of the shared map. The
    head's row of a class keeps its weights for its own path's features. What that costs in accuracy is to be
    fine-tuned back.

    Args:
        model: stays as it is.
        region: what to split.
        paths: the chosen filters.
        classes: names of the network's outputs.
        spare: random paths for classes to come.
        seed: of their weights.
    """
    split = copy.deepcopy(model).eval()
    generator = torch.Generator().manual_seed(seed)
    groups = {name: 1 if name in region.dense else len(classes) + spare for name in region.layers}
    for name in region.layers:
        layer = split.get_submodule(name)
        assert isinstance(layer, nn.Conv2d)
        own, seen = paths.filters[region.members[name]], region.inputs[name]
        depthwise = layer.groups > 1
        groups[name] = 0 if depthwise else groups[name]
        inputs = None if seen < 0 or depthwise else paths.filters[seen]
        _split_convolution(layer, own, inputs, spare, generator)
    norms = tuple(name for name in region.members if isinstance(split.get_submodule(name), nn.BatchNorm2d))
    for name in norms:
        norm = split.get_submodule(name)
        assert isinstance(norm, nn.BatchNorm2d)
        _split_norm(norm, paths.filters[region.members[name]], spare)
    head = split.get_submodule(region.head)
    assert isinstance(head, nn.Linear)
    _split_head(head, paths.filters[region.features], region.widths[region.features], spare)
    mark_decoupled(split, Decoupling(classes, spare, groups, norms, region.head))
    return split


def head_mask(head: nn.Linear, decoupling: Decoupling) -> Tensor:
    """(outputs, features): 1 where a row sees a feature of its own path."""
    owner = torch.arange(head.in_features) // (head.in_features // decoupling.paths)
    rows = torch.arange(head.out_features)
    return (owner[None] == (torch.zeros_like(rows) if decoupling.rest else rows)[:, None]).float()


@contextmanager
def only_paths_trained(model: nn.Module) -> Iterator[None]:
    """Inside, the shared layers are frozen and the head's rows stay within their paths.

    Raises:
        InputError: the network is not split.
    """
    decoupling = need_decoupling(model)
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.requires_grad_(False)
    for name in (*decoupling.layers, *decoupling.norms, decoupling.head):
        model.get_submodule(name).requires_grad_(True)
    head = model.get_submodule(decoupling.head)
    assert isinstance(head, nn.Linear)
    mask = head_mask(head, decoupling).to(head.weight.device)
    hook = head.weight.register_hook(lambda gradient: gradient * mask)  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        hook.remove()
        for parameter, wanted in before:
            parameter.requires_grad_(wanted)


def _split_convolution(
    layer: nn.Conv2d, own: Tensor, inputs: Tensor | None, spare: int, generator: torch.Generator
) -> None:
    depthwise, weight = layer.groups > 1, layer.weight.detach()
    kept = [weight[rows] if inputs is None else weight[rows][:, inputs[p]] for p, rows in enumerate(own)]
    fresh = [_random_like(kept[0], generator) for _ in range(spare)]
    layer.weight = nn.Parameter(torch.cat([*kept, *fresh]))
    if layer.bias is not None:
        bias = layer.bias.detach()
        layer.bias = nn.Parameter(torch.cat([bias[own].flatten(), torch.zeros(spare * own.shape[1])]))
    layer.out_channels = len(layer.weight)
    layer.groups = layer.out_channels if depthwise else 1 if inputs is None else len(own) + spare
    layer.in_channels = layer.weight.shape[1] * layer.groups


def _random_like(weight: Tensor, generator: torch.Generator) -> Tensor:
    """He's initialisation for as many inputs."""
    spread = math.sqrt(2 / weight[0].numel())
    return torch.randn(weight.shape, generator=generator) * spread


def _split_norm(norm: nn.BatchNorm2d, own: Tensor, spare: int) -> None:
    rows, more = own.flatten(), spare * own.shape[1]
    fresh = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
    for name, value in fresh.items():
        tensor = getattr(norm, name)
        if tensor is None:
            continue
        grown = torch.cat([tensor.detach()[rows], torch.full((more,), value)])
        setattr(norm, name, nn.Parameter(grown) if isinstance(tensor, nn.Parameter) else grown)
    norm.num_features = len(rows) + more


def _split_head(head: nn.Linear, own: Tensor, width: int, spare: int) -> None:
    """Rows keep the columns of their own path; a map that is flattened gives each channel several columns."""
    each = head.in_features // width
    columns = (own[:, :, None] * each + torch.arange(each)).flatten(1)
    size = columns.shape[1]
    weight = torch.zeros(len(own), size * (len(own) + spare))
    for row, mine in enumerate(columns):
        weight[row, row * size : (row + 1) * size] = head.weight.detach()[row, mine]
    head.weight = nn.Parameter(weight)
    head.in_features = weight.shape[1]
