"""Which parameter is frozen, centre, full or head, and where the frozen prefix ends.

The cut is the latest operator that every trained parameter lies behind and that a single tensor crosses: its output
is the latent, computed once per image and stored (latent replay; TeAM's shared layers).
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

from torch import Tensor, fx

from pocketstep.compile.cuts import check_cut, last_of_groups, latest_cut, named_cut, single_maps
from pocketstep.compile.graph import Network, aten, module_path, module_paths
from pocketstep.compile.heads import find_head
from pocketstep_device.errors import InputError

Role = Literal["frozen", "centre", "full", "head"]
Preset = Literal["centre", "last", "full", "head", "groups"]
InputGradient = Literal["exact", "centre"]
PRESETS: tuple[Preset, ...] = ("centre", "last", "full", "head", "groups")
INPUT_GRADIENTS: tuple[InputGradient, ...] = ("exact", "centre")


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
    """Roles of all parameters, the cut, and the number of class slots (known classes and spare ones).

    ``input_gradient`` and ``gradient_filter`` say how gradients pass trained centres (:func:`make_plan`).
    """

    preset: str
    parameters: dict[str, Parameter]
    cut: fx.Node
    head: fx.Node
    slots: int
    input_gradient: InputGradient = "exact"
    gradient_filter: bool = False

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


def make_plan(
    network: Network,
    preset: Preset,
    slots: int,
    cut: str | None = None,
    *,
    roles: Sequence[tuple[str, Role]] = (),
    input_gradient: InputGradient = "exact",
    gradient_filter: bool = False,
) -> Plan:
    """Assigns roles and finds the cut.

    Args:
        network: the traced network.
        preset: ``head``; ``last`` (all taps of the last block and the head); ``centre`` (centre taps of every
            convolution with a kernel larger than 1x1 behind the cut, and the head); ``full`` (all taps behind
            the cut, and the head); ``groups`` (all taps of the last convolution of each group, and the head, as
            Zhao et al. train).
        slots: classes that the bundle has room for.
        cut: a module whose output becomes the latent; the latest possible where None. ``centre`` and ``full`` need a
            place to begin: without a cut they begin with the last block.
        roles: module patterns (``layer4.*.conv2``) and the role of the convolutions they match, 1x1 ones too;
            later ones win, all win over the preset.
        input_gradient: ``exact``, or ``centre``: behind a trained centre only the centre carries gradient (CsKO).
        gradient_filter: whether trained centres see gradients averaged over 2x2 pixels (Yang et al. 2023).

    Raises:
        InputError: unknown preset, role, module or pattern, no head, or a cut that more than one tensor crosses.
    """
    if preset not in PRESETS:
        raise InputError(f"unknown plan '{preset}'; choose one of {', '.join(PRESETS)}")
    if input_gradient not in INPUT_GRADIENTS:
        raise InputError(f"unknown input gradient '{input_gradient}'; choose one of {', '.join(INPUT_GRADIENTS)}")
    head = find_head(network)
    classes = int(head.meta["val"].shape[1])
    if slots < classes:
        raise InputError(f"{slots} class slots are fewer than the network's {classes} classes; raise the slots")
    cut_node = named_cut(network, cut) if cut else None
    wanted = {**_preset_roles(network, preset, head, cut_node), **_pattern_roles(network, roles, head)}
    trained = [node for node, role in wanted.items() if role != "frozen"]
    if cut_node is None:
        cut_node = latest_cut(network, [*trained, head])
    check_cut(network, cut_node, [*trained, head])
    parameters: dict[str, Parameter] = {}
    for node in network.operators:
        for name, value in network.weights(node):
            if node is head:
                parameters[name] = _head_parameter(name, value, slots)
            elif value.dim() == 4 and wanted.get(node, "frozen") != "frozen":
                parameters[name] = _tap_parameter(node, name, value, wanted[node])
            else:
                parameters.setdefault(name, Parameter(name, "frozen", tuple(value.shape)))
    return Plan(preset, parameters, cut_node, head, slots, input_gradient, gradient_filter)


def _preset_roles(network: Network, preset: Preset, head: fx.Node, cut: fx.Node | None) -> dict[fx.Node, Role]:
    order = network.operators
    before_head = order[: order.index(head)]
    begin = order.index(cut) + 1 if cut is not None else 0
    trainable = [n for n in before_head[begin:] if is_trainable(n)]
    if preset == "head" or not trainable:
        if preset != "head" and cut is None:
            raise InputError("the network has no convolution larger than 1x1 to train; use --plan head")
        return {}
    if preset == "groups":
        return dict.fromkeys(last_of_groups([n for n in trainable if not is_depthwise(n)]), "full")
    if cut is not None:
        chosen = trainable
    else:
        block = re.sub(r"\.[^.]+$", "", module_path(trainable[-1]))
        chosen = [n for n in trainable if n is trainable[-1] or block in module_paths(n)]
        chosen = _reachable(network, chosen)
    return dict.fromkeys(chosen, "centre" if preset == "centre" else "full")


def _reachable(network: Network, block: list[fx.Node]) -> list[fx.Node]:
    """The convolutions of the last block behind some cut: all, or as many of the last as one map reaches alone."""
    order, cuts = network.operators, single_maps(network)
    for first in range(len(block)):
        if any(order.index(cut) < order.index(block[first]) for cut in cuts):
            return block[first:]
    raise InputError("no place in this network is crossed by a single feature map; it cannot be cut")


def _pattern_roles(network: Network, roles: Sequence[tuple[str, Role]], head: fx.Node) -> dict[fx.Node, Role]:
    chosen: dict[fx.Node, Role] = {}
    for pattern, role in roles:
        if role not in ("centre", "full", "frozen"):
            raise InputError(f"'{role}' is no role of a convolution; choose centre, full or frozen")
        matched = [n for n in network.operators if n is not head and _matches(n, pattern)]
        fit = [n for n in matched if is_trainable(n, any_size=True)]
        if not fit:
            what = "no module" if not matched else "no convolution that can be trained"
            raise InputError(f"the pattern '{pattern}' matches {what}; see the module names with named_modules()")
        chosen.update(dict.fromkeys(fit, role))
    return chosen


def _matches(node: fx.Node, pattern: str) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for path in module_paths(node))


def is_trainable(node: fx.Node, *, any_size: bool = False) -> bool:
    """Whether this operator's kernel can be trained: a two-dimensional convolution, larger than 1x1 or ``any_size``."""
    if node.target is not aten.convolution.default or not isinstance(node.args[1], fx.Node) or node.args[6]:
        return False
    kernel = node.args[1].meta["val"].shape
    return len(kernel) == 4 and (any_size or kernel[2] * kernel[3] > 1)


def is_depthwise(node: fx.Node) -> bool:
    """Whether a convolution has one input channel and one filter a group, and more than one group."""
    groups, kernel = node.args[8], node.args[1].meta["val"].shape  # type: ignore[union-attr]
    return bool(groups != 1 and kernel[1] == 1 and kernel[0] == groups)


def _head_parameter(name: str, value: Tensor, slots: int) -> Parameter:
    trained = "head.weight" if value.dim() > 1 else "head.bias"
    shape = (slots, value.shape[1]) if value.dim() > 1 else (slots,)
    return Parameter(name, "head", tuple(value.shape), trained, shape, "head")


def _tap_parameter(node: fx.Node, name: str, value: Tensor, role: Role) -> Parameter:
    outputs, inputs, height, width = value.shape
    module, groups = name.removesuffix(".weight"), int(cast(int, node.args[8]))
    taps = 1 if role == "centre" else height * width
    if is_depthwise(node):
        shape: tuple[int, ...] = (outputs,) if role == "centre" else (taps, outputs)
    elif groups > 1:
        shape = (groups, taps * inputs, outputs // groups)
    else:
        shape = (taps * inputs, outputs)
    kind = "centre" if role == "centre" else "taps"
    return Parameter(name, role, tuple(value.shape), f"{module}.{kind}", shape, "body")
