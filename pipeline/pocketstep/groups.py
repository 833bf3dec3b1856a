"""The groups of a network: blocks one after another that work on maps of one size and width."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from pocketstep_device.errors import InputError

_POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


@dataclass(frozen=True)
class Group:
    """Blocks in their order.

    Attributes:
        name: of the module that holds the blocks.
        blocks: each block's modules by name: one for a residual block; a convolution and what follows it (norm,
            activation) in a plain stack. The last one's output is the block's.
    """

    name: str
    blocks: tuple[tuple[str, ...], ...]

    @property
    def outputs(self) -> list[str]:
        """The modules whose outputs are the blocks'."""
        return [block[-1] for block in self.blocks]


def find_groups(model: nn.Module, pattern: str | None = None) -> list[Group]:
    """The groups, in the order of the network's modules; none where the network has no such structure.

    Without a pattern: in an ``nn.Sequential``, blocks of one class that hold convolutions (ResNet, WRN, MobileNetV2),
    a new group wherever a block changes the map's width or size; and the convolutions of a plain stack, a new group
    behind every pooling (VGG, AlexNet).

    Args:
        model: any network.
        pattern: names of the blocks with ``*`` for parts of a name, such as ``stages.*.blocks.*``; blocks of one
            parent are one group.

    Raises:
        InputError: no module matches the pattern.
    """
    if pattern is not None:
        return _matching(model, pattern)
    found = list(_runs(model)) + list(_stacks(model))
    inner = [group for group in found if not any(_inside(other, group) for other in found)]
    order = {name: index for index, (name, _) in enumerate(model.named_modules())}
    return sorted(inner, key=lambda group: order[group.blocks[0][0]])


def can_shorten(groups: list[Group]) -> bool:
    """Whether a group has more than one block, so that a shallower network can be made."""
    return any(len(group.blocks) > 1 for group in groups)


def facts_of(model: nn.Module, group: Group) -> tuple[int, int]:
    """(channels of its last block's output, product of its convolutions' strides but the shortcuts')."""
    layers = [layer for block in group.blocks for _, layer in main_convolutions(model, block)]
    return layers[-1].out_channels, math.prod(layer.stride[0] for layer in layers)


def main_convolutions(model: nn.Module, block: tuple[str, ...]) -> list[tuple[str, nn.Conv2d]]:
    """A block's convolutions with their names, without those of its shortcut."""
    return [
        (name, module)
        for root in block
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and (name == root or name.startswith(root + "."))
        and not any(part in name.split(".") for part in ("shortcut", "downsample"))
    ]  # fmt: skip


def last_convolutions(model: nn.Module, groups: list[Group]) -> list[str]:
    """The last convolution of each group (Zhao et al. §4.1 update these only); shortcuts' 1x1 do not count."""
    return [main_convolutions(model, group.blocks[-1])[-1][0] for group in groups]


def _matching(model: nn.Module, pattern: str) -> list[Group]:
    parts, parents = pattern.split("."), dict[str, list[str]]()
    for name, _ in model.named_modules():
        own = name.split(".")
        if len(own) == len(parts) and all(fnmatchcase(a, b) for a, b in zip(own, parts, strict=True)):
            parents.setdefault(name.rpartition(".")[0], []).append(name)
    if not parents:
        some = ", ".join([name for name, _ in model.named_modules() if name][:8])
        raise InputError(f"no module matches the groups' pattern '{pattern}': the network has {some}, ...")
    return [Group(parent, tuple((name,) for name in names)) for parent, names in parents.items()]


def _runs(model: nn.Module) -> Iterator[Group]:
    for name, container in model.named_modules():
        if not isinstance(container, nn.Sequential):
            continue
        run: list[str] = []
        kind: type[nn.Module] | None = None
        for key, child in container.named_children():
            is_block = not isinstance(child, nn.Sequential | nn.Conv2d) and _convolutions(child) != []
            if run and (not is_block or type(child) is not kind or _changes(child)):
                yield Group(name, tuple((block,) for block in run))
                run = []
            if is_block:
                run.append(f"{name}.{key}".strip("."))
                kind = type(child)
        if run:
            yield Group(name, tuple((block,) for block in run))


def _stacks(model: nn.Module) -> Iterator[Group]:
    for name, container in model.named_modules():
        children = list(container.named_children()) if isinstance(container, nn.Sequential) else []
        if sum(isinstance(child, nn.Conv2d) for _, child in children) < 2:
            continue
        blocks: list[list[str]] = []
        for key, child in children:
            if isinstance(child, nn.Conv2d):
                blocks.append([f"{name}.{key}".strip(".")])
            elif isinstance(child, _POOLS) or any(True for _ in child.children()):
                if blocks:
                    yield Group(name, tuple(map(tuple, blocks)))
                blocks = []
            elif blocks:
                blocks[-1].append(f"{name}.{key}".strip("."))
        if blocks:
            yield Group(name, tuple(map(tuple, blocks)))


def _convolutions(module: nn.Module) -> list[nn.Conv2d]:
    return [m for m in module.modules() if isinstance(m, nn.Conv2d)]


def _changes(block: nn.Module) -> bool:
    """Whether a block's output has another width or size than its input, judged by its convolutions."""
    layers = _convolutions(block)
    strided = any(max(layer.stride) > 1 for layer in layers)
    return strided or layers[0].in_channels != layers[-1].out_channels


def _inside(inner: Group, outer: Group) -> bool:
    """Whether a group lies within a block of another."""
    roots = [name for block in outer.blocks for name in block]
    return any(inner.blocks[0][0].startswith(root + ".") for root in roots)
