"""Which layers are split into paths, and which of them share their channels.

A path needs channels of its own in every layer behind the cut. Layers whose channels are added (residual sums) or
passed one by one (batch norms, depthwise convolutions, pooling) share one choice of channels: a *channel set*. A
convolution begins a set; a depthwise one goes on with its input's, so that it fits without any change. A residual sum
joins two sets; where one side would be the shared layers' own channels (a shortcut without weights), the split begins
earlier, with the block whose shortcut is a convolution or that has none. So a residual block is split whole or not at
all, and no channel is ever picked out of a shared map.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from pocketstep.groups import find_groups
from pocketstep_device.errors import InputError

_SUMS = (operator.add, operator.iadd, torch.add)
_PASSING = (
    nn.BatchNorm2d, nn.ReLU, nn.ReLU6, nn.Hardswish, nn.SiLU, nn.GELU, nn.Dropout, nn.Identity, nn.MaxPool2d,
    nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Flatten,
)  # fmt: skip
_PASSING_CALLS = (
    torch.flatten, nn.functional.relu, nn.functional.relu6, nn.functional.adaptive_avg_pool2d, nn.functional.dropout,
    "mean", "flatten", "relu",
)  # fmt: skip


@dataclass(frozen=True)
class Region:
    """The end of a network that is split.

    Attributes:
        asked: how many convolutions were to be split.
        layers: names of the split convolutions, shortcuts among them, in order.
        dense: those of them that see the shared layers' whole map: their paths differ in outputs only.
        members: name of every convolution and batch norm of the region -> its channel set.
        inputs: name of a split convolution -> the channel set that it reads; -1 for the shared map.
        measured: of each channel set, the place in the graph where filters are scored: the last map that has it.
        features: channel set that the head sees.
        head: name of the linear layer.
        traced: the network as it was traced, in evaluation mode.
    """

    asked: int
    layers: tuple[str, ...]
    dense: frozenset[str]
    members: dict[str, int]
    inputs: dict[str, int]
    measured: dict[int, str]
    features: int
    head: str
    traced: fx.GraphModule

    @property
    def widths(self) -> dict[int, int]:
        """Channels of each set before the split."""
        found: dict[int, int] = {}
        for name in self.layers:
            layer = self.traced.get_submodule(name)
            assert isinstance(layer, nn.Conv2d)
            found[self.members[name]] = layer.out_channels
        return found


def find_region(model: nn.Module, layers: int, image: Tensor) -> Region:
    """The last ``layers`` convolutions, and what must be split with them (see the module's text).

    Args:
        model: any network that torch.fx traces and that ends in one linear layer.
        layers: 1 or more; shortcuts are not counted, depthwise convolutions are.
        image: one normalised image, float (1, C, H, W), to find the maps' shapes.

    Raises:
        InputError: the network cannot be traced or split, or has fewer convolutions.
    """
    if layers < 1:
        raise InputError(f"cannot split the last {layers} convolutions into paths: give 1 or more")
    try:
        traced = fx.symbolic_trace(_without_in_place(model))
    except (fx.proxy.TraceError, TypeError) as error:
        raise InputError(
            f"cannot split this network: torch.fx does not trace it ({error}); make forward() a "
            "straight sequence of modules"
        ) from error
    fx.passes.shape_prop.ShapeProp(traced).propagate(image)
    finder = _Finder(traced, find_groups(model))
    if layers > len(finder.main):
        raise InputError(
            f"cannot split the last {layers} convolutions: the network has {len(finder.main)}, split fewer"
        )
    for number in range(layers, len(finder.main) + 1):
        region = finder.region(layers, finder.first_of(finder.main[-number]))
        if region is not None:
            return region
    raise InputError(
        "no block of this network can begin the paths: every residual sum reaches back to its input; "
        "paths need a block whose shortcut is a convolution"
    )


def _without_in_place(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose activations keep their inputs, so that every map can be looked at."""
    copied = copy.deepcopy(model).eval()
    for module in copied.modules():
        if hasattr(module, "inplace"):
            setattr(module, "inplace", False)  # noqa: B010  a plain attribute of some modules
    return copied


class _Finder:
    """Walks one traced network."""

    def __init__(self, traced: fx.GraphModule, groups: Iterable[object]) -> None:
        self.traced = traced
        self.modules = dict(traced.named_modules())
        self.nodes = list(traced.graph.nodes)
        blocks = [name for group in groups for block in group.blocks for name in block]  # type: ignore[attr-defined]
        self.blocks = [name for name in blocks if not isinstance(self.modules[name], nn.Conv2d)]
        convolutions = [n for n in self.nodes if isinstance(self._module(n), nn.Conv2d)]
        self.main = [n for n in convolutions if not _is_shortcut(str(n.target))]

    def _module(self, node: fx.Node) -> nn.Module | None:
        return self.modules.get(str(node.target)) if node.op == "call_module" else None

    def first_of(self, convolution: fx.Node) -> int:
        """Where the block of a convolution begins: the index of its first node; the convolution's own without one."""
        name = str(convolution.target)
        block = next((b for b in self.blocks if name.startswith(b + ".")), None)
        inside = [i for i, n in enumerate(self.nodes) if block and str(n.target).startswith(block + ".")]
        return inside[0] if inside else self.nodes.index(convolution)

    def region(self, asked: int, first: int) -> Region | None:
        """The region that begins with a node; None where a sum joins it with the shared map."""
        sets: dict[fx.Node, int] = {}
        members: dict[str, int] = {}
        inputs: dict[str, int] = {}
        same: dict[int, int] = {}
        head = ""
        for node in self.nodes[first:]:
            module, sources = self._module(node), [sets[n] for n in node.all_input_nodes if n in sets]
            if isinstance(module, nn.Conv2d):
                name = str(node.target)
                inputs[name] = sources[0] if sources else -1
                if _is_depthwise(module):
                    if not sources:
                        return None
                    sets[node] = sources[0]
                else:
                    self._check_dense(name, module)
                    sets[node] = len(same)
                    same[len(same)] = len(same)
                members[name] = sets[node]
            elif not sources:
                continue
            elif isinstance(module, nn.Linear):
                head = self._head(node, head)
                break
            elif node.op == "call_function" and node.target in _SUMS:
                if len(sources) != 2:
                    return None
                low, high = sorted(_root(same, s) for s in sources)
                same[high] = low
                sets[node] = low
            elif isinstance(module, _PASSING) or node.target in _PASSING_CALLS:
                sets[node] = sources[0]
                if isinstance(module, nn.BatchNorm2d):
                    members[str(node.target)] = sources[0]
            else:
                raise InputError(f"cannot split this network into paths: {node.target} behind them mixes channels")
        if not head:
            raise InputError(
                "cannot split this network into paths: no linear layer follows its last "
                "convolutions; end it in nn.Linear"
            )
        return self._finished(asked, sets, members, inputs, same, head)

    def _finished(
        self, asked: int, sets: dict[fx.Node, int], members: dict[str, int], inputs: dict[str, int],
        same: dict[int, int], head: str,
    ) -> Region:  # fmt: skip
        roots = {node: _root(same, number) for node, number in sets.items()}
        measured = {r: node.name for node, r in roots.items() if len(node.meta["tensor_meta"].shape) == 4}
        return Region(
            asked, tuple(inputs), frozenset(name for name, number in inputs.items() if number < 0),
            {name: _root(same, number) for name, number in members.items()},
            {name: number if number < 0 else _root(same, number) for name, number in inputs.items()},
            measured, next(reversed(roots.values())), head, self.traced,
        )  # fmt: skip

    def _check_dense(self, name: str, module: nn.Conv2d) -> None:
        if module.groups != 1:
            raise InputError(f"'{name}' is a grouped convolution already: paths are made of dense and depthwise ones")

    def _head(self, node: fx.Node, found: str) -> str:
        behind = self.nodes[self.nodes.index(node) + 1 :]
        if any(isinstance(self._module(n), nn.Linear) for n in behind):
            raise InputError(
                f"'{node.target}' is a hidden linear layer, which mixes all paths: use the network's form for small "
                "images, whose head is one linear layer"
            )
        return str(node.target)


def _is_depthwise(module: nn.Conv2d) -> bool:
    return module.groups == module.in_channels == module.out_channels > 1


def _is_shortcut(name: str) -> bool:
    return any(part in ("shortcut", "downsample") for part in name.split("."))


def _root(same: dict[int, int], number: int) -> int:
    while same[number] != number:
        number = same[number]
    return number
