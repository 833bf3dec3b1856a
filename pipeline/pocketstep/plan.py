"""Which parameter is frozen, centre, full or head, and where the frozen prefix ends.

The cut is the latest operator that every trained parameter lies behind and that a single tensor crosses: its output
is the latent, computed once per image and stored (latent replay; TeAM's shared layers).
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Literal, cast

from torch import Tensor, fx

from pocketstep.compile.trace import Network, aten, module_path, module_paths
from pocketstep_device.errors import InputError

Role = Literal["frozen", "centre", "full", "head"]
Preset = Literal["centre", "last", "full", "head"]
PRESETS: tuple[Preset, ...] = ("centre", "last", "full", "head")


@dataclass(frozen=True)
class Parameter:
    """One constant of the network and what becomes of it.

    Attributes:
        name: qualified name in the module.
        role: ``frozen``; ``centre`` (the 1x1 tap of the kernel is trained, CsKO); ``full``; ``head``.
        shape: of the whole constant, PyTorch's layout.
        trained: name of the trainable tensor in the bundle's state, None when frozen.
        trained_shape: its shape there, None when frozen.
        group: learning-rate group, None when frozen.
    """

    name: str
    role: Role
    shape: tuple[int, ...]
    trained: str | None = None
    trained_shape: tuple[int, ...] | None = None
    group: str | None = None


@dataclass(frozen=True)
class Plan:
    """Roles of all parameters, the cut, and the number of class slots (known classes and spare ones)."""

    preset: str
    parameters: dict[str, Parameter]
    cut: fx.Node
    head: fx.Node
    slots: int

    @property
    def trained(self) -> list[Parameter]:
        """The parameters with a trainable tensor, in the order of the graph."""
        return [p for p in self.parameters.values() if p.trained is not None]

    @property
    def trained_groups(self) -> dict[str, str]:
        """Name of every trainable tensor -> its learning-rate group, in the order of the graph."""
        return {p.trained: p.group for p in self.trained if p.trained and p.group}

    def role(self, name: str) -> Role:
        """The role of a constant; constants that the plan does not list are frozen."""
        return self.parameters[name].role if name in self.parameters else "frozen"


def make_plan(network: Network, preset: Preset, slots: int, cut: str | None = None) -> Plan:
    """Assigns roles and finds the cut.

    Args:
        network: the traced network.
        preset: ``head``; ``last`` (all taps of the last block and the head); ``centre`` (centre taps of every
            convolution with a kernel larger than 1x1 behind the cut, and the head); ``full`` (all taps behind
            the cut, and the head). Depthwise and dilated kernels are trained at their centre in every preset.
        slots: classes that the bundle has room for.
        cut: a module whose output becomes the latent; found where None. ``centre`` and ``full`` need a place to
            begin: without a cut they begin with the last block.

    Raises:
        InputError: unknown preset or module, no head, or a cut that more than one tensor crosses.
    """
    if preset not in PRESETS:
        raise InputError(f"unknown plan '{preset}'; choose one of {', '.join(PRESETS)}")
    head = find_head(network)
    classes = int(head.meta["val"].shape[1])
    if slots < classes:
        raise InputError(f"{slots} class slots are fewer than the network's {classes} classes; raise the slots")
    cut_node = _named_cut(network, cut) if cut else _default_cut(network, head, preset)
    behind = _after(network, cut_node)
    role: Role = "centre" if preset == "centre" else "full"
    parameters: dict[str, Parameter] = {}
    for node in network.operators:
        for name, value in network.weights(node):
            if node is head:
                parameters[name] = _head_parameter(name, value, slots)
            elif preset != "head" and node in behind and is_trainable(node) and value.dim() == 4:
                whole = role == "full" and node.args[8] == 1 and set(cast(list[int], node.args[5])) == {1}
                parameters[name] = _tap_parameter(node, name, value, "full" if whole else "centre")
            else:
                parameters.setdefault(name, Parameter(name, "frozen", tuple(value.shape)))
    plan = Plan(preset, parameters, cut_node, head, slots)
    _check_crossing(network, cut_node)
    return plan


def find_head(network: Network) -> fx.Node:
    """The final linear layer, whose output is the logits."""
    node = network.output
    if node.target is not aten.addmm.default:
        raise InputError(
            f"the network ends in {node.target} ({module_path(node) or 'top level'}), not in a linear layer with a "
            "bias; end it in nn.Linear so that new classes have rows to live in"
        )
    return node


def is_trainable(node: fx.Node) -> bool:
    """Whether this operator's kernel can be trained: a convolution larger than 1x1, dense or depthwise."""
    if node.target is not aten.convolution.default or not isinstance(node.args[1], fx.Node) or node.args[6]:
        return False
    kernel = node.args[1].meta["val"].shape
    dense = bool(node.args[8] == 1)
    return len(kernel) == 4 and kernel[2] * kernel[3] > 1 and (dense or is_depthwise(node))


def is_depthwise(node: fx.Node) -> bool:
    """Whether a convolution has one input channel and one filter a group, and more than one group."""
    groups, kernel = node.args[8], node.args[1].meta["val"].shape  # type: ignore[union-attr]
    return bool(groups != 1 and kernel[1] == 1 and kernel[0] == groups)


def _head_parameter(name: str, value: Tensor, slots: int) -> Parameter:
    trained = "head.weight" if value.dim() == 2 else "head.bias"
    shape = (slots, *value.shape[1:])
    return Parameter(name, "head", tuple(value.shape), trained, shape, "head")


def _tap_parameter(node: fx.Node, name: str, value: Tensor, role: Role) -> Parameter:
    outputs, inputs, height, width = value.shape
    module = name.removesuffix(".weight")
    if role == "centre":
        shape = (outputs,) if is_depthwise(node) else (inputs, outputs)
        return Parameter(name, role, tuple(value.shape), f"{module}.centre", shape, "body")
    return Parameter(name, role, tuple(value.shape), f"{module}.taps", (height * width * inputs, outputs), "body")


def _after(network: Network, cut: fx.Node) -> set[fx.Node]:
    order = network.operators
    return set(order[order.index(cut) + 1 :]) if cut in order else set(order)


def _named_cut(network: Network, name: str) -> fx.Node:
    inside = [n for n in network.operators if name in module_paths(n)]
    if not inside:
        known = sorted({p for n in network.operators for p in module_paths(n)})
        close = difflib.get_close_matches(name, known, n=3) or known[:8]
        raise InputError(f"the network has no module '{name}' to cut after; did you mean {', '.join(close)}?")
    last = inside[-1]
    return last if isinstance(last.meta["val"], Tensor) else next(iter(last.users), last)


def is_map(node: fx.Node) -> bool:
    """Whether an operator gives one feature map, (N, C, H, W)."""
    return isinstance(node.meta["val"], Tensor) and node.meta["val"].dim() == 4


def crossings(network: Network, cut: fx.Node) -> set[fx.Node]:
    """The tensors that operators after ``cut`` read from at or before it (constants left out)."""
    order = {node: index for index, node in enumerate(network.graph.nodes)}
    return {
        source
        for node in _after(network, cut)
        for source in node.all_input_nodes
        if order[source] <= order[cut] and source.name not in network.constants
    }


def _check_crossing(network: Network, cut: fx.Node) -> None:
    crossing = crossings(network, cut)
    if crossing != {cut}:
        after = _after(network, cut)
        fit = (n for n in network.operators if n in after and is_map(n) and module_path(n))
        later = next((n for n in fit if crossings(network, n) == {n}), None)
        advice = f"; the nearest later place that works is after '{module_path(later)}'" if later else ""
        raise InputError(f"more than one tensor crosses the cut after '{module_path(cut)}'{advice}")
    if not is_map(cut):
        raise InputError(f"the latent after '{module_path(cut)}' is no feature map; cut earlier, before the pooling")


def _default_cut(network: Network, head: fx.Node, preset: Preset) -> fx.Node:
    """Before the last block for centre, last and full; before the pooling for head."""
    order = network.operators
    single = [n for n in order if is_map(n) and crossings(network, n) == {n}]
    if not single:
        raise InputError("no place in this network is crossed by a single feature map; it cannot be cut")
    if preset == "head":
        return single[-1]
    trainable = [n for n in order if is_trainable(n) and order.index(n) < order.index(head)]
    if not trainable:
        raise InputError("the network has no convolution larger than 1x1 to train; use --plan head")
    block = re.sub(r"\.[^.]+$", "", module_path(trainable[-1]))
    first = next(n for n in trainable if n is trainable[-1] or block in module_paths(n))
    before = [n for n in single if order.index(n) < order.index(first)]
    if not before:
        raise InputError("no single tensor reaches the last block; name a cut with --cut")
    return before[-1]
