"""The built-in teacher: a residual network in its CIFAR form, buildable at any widths."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pocketstep_device.errors import InputError


@dataclass(frozen=True)
class BlockShape:
    """A residual block's channels (in, between its convolutions, out); is its shortcut a convolution?"""

    inputs: int
    middle: int
    outputs: int
    stride: int
    projected: bool


@dataclass(frozen=True)
class Architecture:
    """All that is needed to build a ``ResidualNet``, at the widths it really has (pruning changes them)."""

    classes: int
    in_channels: int
    stem: int
    groups: tuple[tuple[BlockShape, ...], ...]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norms around a shortcut.

    ``relu2(bn2(conv2(relu1(bn1(conv1(x))))) + shortcut(x))``. The shortcut is a
    strided 1x1 convolution with batch norm where the shape says so, else the identity.
    """

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(shape.inputs, shape.middle, 3, shape.stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(shape.middle)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(shape.middle, shape.outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(shape.outputs)
        self.shortcut: nn.Module = nn.Identity()
        if shape.projected:
            projection = nn.Conv2d(shape.inputs, shape.outputs, 1, shape.stride, bias=False)
            self.shortcut = nn.Sequential(
                OrderedDict[str, nn.Module](conv=projection, bn=nn.BatchNorm2d(shape.outputs))
            )
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Maps float (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        inner = self.relu1(self.bn1(self.conv1(x)))
        joined: Tensor = self.relu2(self.bn2(self.conv2(inner)) + self.shortcut(x))
        return joined

    @property
    def shape(self) -> BlockShape:
        """The block's present shape, read from its convolutions."""
        first, second = self.conv1, self.conv2
        projected = not isinstance(self.shortcut, nn.Identity)
        return BlockShape(first.in_channels, first.out_channels, second.out_channels, first.stride[0], projected)


class ResidualNet(nn.Module):
    """A residual network for small images: stem, groups of blocks, mean over the map, linear head.

    Modules: ``stem`` (conv, bn, relu), ``group1`` .. ``groupN`` (``nn.Sequential`` of ``ResidualBlock``) and
    ``head``. The first block of every group but the first halves the map. Activations are ``nn.ReLU``
    modules, so that hooks and torch.fx see them.

    Args:
        classes: Width of the head.
        in_channels: Channels of the images.
        widths: Channels of each group.
        blocks: Blocks per group.
        seed: Of the initial weights; the global random state is left as it was.

    Raises:
        InputError: If a number is not positive, or there is no group.
    """

    def __init__(
        self,
        classes: int,
        in_channels: int = 1,
        widths: Sequence[int] = (16, 32, 64),
        blocks: int = 3,
        *,
        seed: int = 0,
    ) -> None:
        if not widths or min(blocks, *widths) < 1:
            raise InputError(f"cannot build {blocks} blocks of widths {tuple(widths)}: give positive numbers")
        entries = (widths[0], *widths[:-1])
        groups = tuple(
            _group(before, width, 1 if index == 0 else 2, blocks)
            for index, (before, width) in enumerate(zip(entries, widths, strict=True))
        )
        self._build(Architecture(classes, in_channels, widths[0], groups), seed)

    @classmethod
    def from_architecture(cls, architecture: Architecture, *, seed: int = 0) -> ResidualNet:
        """Builds a network of given widths, for instance those of a pruned one, with new weights.

        Raises:
            InputError: If the architecture's numbers are not positive, or its widths do not fit together.
        """
        model = cls.__new__(cls)
        model._build(architecture, seed)
        return model

    def _build(self, architecture: Architecture, seed: int) -> None:
        _check(architecture)
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            conv = nn.Conv2d(architecture.in_channels, architecture.stem, 3, padding=1, bias=False)
            self.stem = nn.Sequential(
                OrderedDict[str, nn.Module](conv=conv, bn=nn.BatchNorm2d(architecture.stem), relu=nn.ReLU())
            )
            for number, shapes in enumerate(architecture.groups, 1):
                self.add_module(f"group{number}", nn.Sequential(*(ResidualBlock(shape) for shape in shapes)))
            self.head = nn.Linear(architecture.groups[-1][-1].outputs, architecture.classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of normalised float images (N, in_channels, H, W)."""
        maps: Tensor = self.stem(images)
        for group in self.groups:
            maps = group(maps)
        logits: Tensor = self.head(maps.mean((2, 3)))
        return logits

    @property
    def groups(self) -> list[nn.Sequential]:
        """``group1`` .. ``groupN``, in order."""
        return [m for name, m in self.named_children() if name.startswith("group") and isinstance(m, nn.Sequential)]

    @property
    def blocks(self) -> list[list[ResidualBlock]]:
        """The blocks of each group, in order."""
        return [[block for block in group if isinstance(block, ResidualBlock)] for group in self.groups]

    @property
    def architecture(self) -> Architecture:
        """The present architecture, read from the modules: what pruning has left."""
        stem = self.stem[0]
        assert isinstance(stem, nn.Conv2d)
        groups = tuple(tuple(block.shape for block in group) for group in self.blocks)
        return Architecture(self.head.out_features, stem.in_channels, stem.out_channels, groups)


def _group(inputs: int, outputs: int, stride: int, blocks: int) -> tuple[BlockShape, ...]:
    first = BlockShape(inputs, outputs, outputs, stride, projected=stride != 1 or inputs != outputs)
    return (first, *(BlockShape(outputs, outputs, outputs, 1, projected=False) for _ in range(blocks - 1)))


def parse_architecture(described: dict[str, Any]) -> Architecture:
    """Reads what ``dataclasses.asdict`` wrote; TypeError and KeyError where it is something else."""
    groups = tuple(tuple(BlockShape(**shape) for shape in group) for group in described["groups"])
    return Architecture(**{**described, "groups": groups})


def _check(architecture: Architecture) -> None:
    shapes = [shape for group in architecture.groups for shape in group]
    sizes = [architecture.classes, architecture.in_channels, architecture.stem]
    sizes += [size for s in shapes for size in (s.inputs, s.middle, s.outputs, s.stride)]
    if not all(architecture.groups) or not shapes or any(type(size) is not int or size < 1 for size in sizes):
        raise InputError(f"cannot build {architecture}: every group needs a block, every size a positive number")
    entry = architecture.stem
    for shape in shapes:
        kept = shape.stride == 1 and shape.inputs == shape.outputs
        if shape.inputs != entry or not (shape.projected or kept):
            raise InputError(
                f"cannot build {shape} on {entry} channels: its inputs must be those, and a block that "
                "changes stride or width needs a projected shortcut"
            )
        entry = shape.outputs
