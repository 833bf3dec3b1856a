"""Shallow: the same groups with the last block of each (Zhao et al. 2022, §3)."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TypeVar

from torch import nn

from pocketstep.architectures import blueprint_of, mark
from pocketstep.groups import Group, find_groups
from pocketstep_device.errors import InputError

M = TypeVar("M", bound=nn.Module)

_NORMS = (nn.BatchNorm2d, nn.GroupNorm, nn.InstanceNorm2d)


def shallow(model: M, pattern: str | None = None) -> M:
    """The same groups with the last block of each, as a new network to be retrained.

    The kept block works on the group's input: it takes over the first block's input width, strides and shortcut. So
    its first convolution, with the norms around it, comes from the group's first block, which was trained on that
    input; the rest comes from the last block. Where the widths between those two do not fit, the first convolution
    starts afresh. A group whose blocks are all alike keeps its last block as it is. All outside the groups is
    inherited whole.

    Args:
        model: any network with groups (see ``find_groups``); stays as it is.
        pattern: names of the blocks, where they are not found by themselves.

    Raises:
        InputError: the network has no groups, or blocks cannot be taken out of their container.
    """
    groups = find_groups(model, pattern)
    if not groups:
        raise InputError(
            f"{type(model).__name__} has no groups of blocks to shorten: it can only be thinned; set shallow = false, "
            "or name its blocks with a pattern such as 'stages.*.blocks.*'"
        )
    student = copy.deepcopy(model)
    for group in groups:
        if len(group.blocks) > 1:
            _shorten(student, group)
    found = blueprint_of(model)
    if found:
        mark(student, replace(found, shallow=True, pattern=pattern))
    return student


def _shorten(student: nn.Module, group: Group) -> None:
    """Puts the kept block in the first one's place and takes the others out; names of other modules stay."""
    first, last = group.blocks[0], group.blocks[-1]
    if len(first) != len(last):
        raise InputError(f"the first and the last block of group '{group.name}' have other layers: name a pattern")
    before, behind = (nn.Sequential(*(student.get_submodule(name) for name in block)) for block in (first, last))
    kept = _join(before, behind)
    for name, module in zip(first, kept.children(), strict=True):
        parent, _, key = name.rpartition(".")
        setattr(student.get_submodule(parent), key, module)
    for name in (name for block in group.blocks[1:] for name in block):
        parent, _, key = name.rpartition(".")
        container = student.get_submodule(parent)
        if not isinstance(container, nn.Sequential | nn.ModuleList):
            raise InputError(f"cannot take block '{name}' out of a {type(container).__name__}: use nn.Sequential")
        delattr(container, key)


def _join(first: nn.Module, last: nn.Module) -> nn.Module:
    layers, before = _layers(last), _layers(first)
    if _alike(before, layers):
        return copy.deepcopy(last)
    joined = copy.deepcopy(first)
    entry, follows, begun = None, False, False
    for name, layer in layers.items():
        if isinstance(layer, nn.Conv2d):
            old = before.get(name)
            if not isinstance(old, nn.Conv2d):
                raise InputError(f"the blocks of a group have other layers ('{name}'): name a pattern of like blocks")
            follows, begun = not begun, True
            if follows:
                entry = old if _weight_shape(old, layer) == old.weight.shape else None
                _put(joined, name, copy.deepcopy(entry) if entry else _conv(layer, old.in_channels, old))
            else:
                _put(joined, name, _strided(copy.deepcopy(layer), old))
        elif begun and not follows:
            _put(joined, name, copy.deepcopy(layer))
        elif begun and entry is None:
            fresh = copy.deepcopy(layer)
            fresh.reset_parameters()  # type: ignore[operator]
            _put(joined, name, fresh)
    return joined


def _layers(block: nn.Module) -> dict[str, nn.Module]:
    """Convolutions and norms, in the order in which they were registered: that of their use."""
    return {name: module for name, module in block.named_modules() if isinstance(module, (nn.Conv2d, *_NORMS))}


def _alike(before: dict[str, nn.Module], layers: dict[str, nn.Module]) -> bool:
    """Whether two blocks take the same input: no other layers, the same widths at the entry, the same strides."""
    first = [m for m in before.values() if isinstance(m, nn.Conv2d)]
    last = [m for m in layers.values() if isinstance(m, nn.Conv2d)]
    strides = [m.stride for m in first] == [m.stride for m in last]
    return before.keys() == layers.keys() and strides and first[0].in_channels == last[0].in_channels


def _weight_shape(old: nn.Conv2d, layer: nn.Conv2d) -> tuple[int, ...]:
    """The shape that the entry needs: the last block's outputs and kernel, the first block's inputs."""
    return (layer.out_channels, old.in_channels // old.groups, *layer.kernel_size)


def _conv(layer: nn.Conv2d, inputs: int, old: nn.Conv2d) -> nn.Conv2d:
    groups = inputs if layer.groups == layer.in_channels and layer.groups > 1 else layer.groups
    made = nn.Conv2d(
        inputs, layer.out_channels, (layer.kernel_size[0], layer.kernel_size[1]), (old.stride[0], old.stride[1]),
        layer.padding if isinstance(layer.padding, str) else (layer.padding[0], layer.padding[1]),
        (layer.dilation[0], layer.dilation[1]), groups, layer.bias is not None,
    )  # fmt: skip
    nn.init.kaiming_normal_(made.weight, mode="fan_out", nonlinearity="relu")
    return made.to(layer.weight.device)


def _strided(layer: nn.Conv2d, old: nn.Conv2d) -> nn.Conv2d:
    layer.stride = old.stride
    return layer


def _put(root: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, key = name.rpartition(".")
    setattr(root.get_submodule(parent), key, module)
