"""A smaller network of some classes: the shared layers, these classes' paths, and their rows of the head."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from pocketstep.decouple.surgery import Decoupling, mark_decoupled, need_decoupling
from pocketstep_device.errors import InputError


def specialise(model: nn.Module, classes: Sequence[str], *, spare: int = 0) -> nn.Module:
    """Takes the paths of some classes out of a decoupled network; their logits are those of the whole network.

    One class alone becomes a one-vs-all network with a second output, ``other``, whose logit is 0 until it is trained.

    Args:
        model: decoupled; stays as it is.
        classes: of its classes, without repetition; their order is the new one.
        spare: spare paths that go along.

    Raises:
        InputError: a class without a path, one twice, or more spare paths than there are.
    """
    whole = need_decoupling(model)
    chosen = _chosen(whole, classes, spare)
    part = copy.deepcopy(model)
    for name, groups in whole.layers.items():
        layer = part.get_submodule(name)
        assert isinstance(layer, nn.Conv2d)
        rows = _channels(chosen, layer.out_channels, whole.paths)
        layer.weight = nn.Parameter(layer.weight.detach()[rows])
        if layer.bias is not None:
            layer.bias = nn.Parameter(layer.bias.detach()[rows])
        layer.out_channels = len(rows)
        layer.groups = {0: len(rows), 1: 1}.get(groups, len(chosen))
        layer.in_channels = layer.weight.shape[1] * layer.groups
    for name in whole.norms:
        norm = part.get_submodule(name)
        assert isinstance(norm, nn.BatchNorm2d)
        _narrow_norm(norm, _channels(chosen, norm.num_features, whole.paths))
    head = part.get_submodule(whole.head)
    assert isinstance(head, nn.Linear)
    single = len(classes) == 1
    _narrow_head(head, chosen[: len(classes)], _channels(chosen, head.in_features, whole.paths), single)
    groups_now = {name: len(chosen) if groups > 1 else groups for name, groups in whole.layers.items()}
    mark_decoupled(part, replace(whole, classes=tuple(classes), spare=spare, layers=groups_now, rest=single))
    return part


def _chosen(whole: Decoupling, classes: Sequence[str], spare: int) -> list[int]:
    unknown = [name for name in classes if name not in whole.classes]
    if unknown or not classes or len(set(classes)) < len(classes):
        problem = f"there is no path of '{unknown[0]}'" if unknown else "name each class once"
        raise InputError(f"cannot cut out these classes: {problem}; choose among {', '.join(whole.classes)}")
    if spare > whole.spare:
        raise InputError(f"{spare} spare paths are more than the network's {whole.spare}: ask for fewer")
    own = [whole.classes.index(name) for name in classes]
    return own + list(range(len(whole.classes), len(whole.classes) + spare))


def _channels(chosen: Sequence[int], total: int, paths: int) -> Tensor:
    """The channels of some paths, of ``total`` that all paths have."""
    width = total // paths
    return (torch.tensor(chosen)[:, None] * width + torch.arange(width)).flatten()


def _narrow_norm(norm: nn.BatchNorm2d, rows: Tensor) -> None:
    for name in ("weight", "bias", "running_mean", "running_var"):
        tensor = getattr(norm, name)
        if tensor is not None:
            kept = tensor.detach()[rows]
            setattr(norm, name, nn.Parameter(kept) if isinstance(tensor, nn.Parameter) else kept)
    norm.num_features = len(rows)


def _narrow_head(head: nn.Linear, rows: Sequence[int], columns: Tensor, single: bool) -> None:
    weight, bias = head.weight.detach()[list(rows)][:, columns], head.bias.detach()[list(rows)]
    if single:
        weight, bias = torch.cat([weight, torch.zeros_like(weight)]), torch.cat([bias, torch.zeros_like(bias)])
    head.weight, head.bias = nn.Parameter(weight), nn.Parameter(bias)
    head.out_features, head.in_features = weight.shape
