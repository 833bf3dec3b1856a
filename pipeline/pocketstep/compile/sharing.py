"""Which input gradients share the forward's constant, so that a program is hardly larger than the plain network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import fx

from pocketstep.compile.cuts import after
from pocketstep.compile.graph import Network
from pocketstep.compile.operators import Convolution
from pocketstep.compile.rules.convolution import Geometry
from pocketstep.plan import Plan, is_trainable

ALLOWANCE = 0.2
"""Second constants, as a share of the network's own parameters; the rest of a quarter is the graph itself."""


@dataclass(frozen=True)
class _Second:
    """A convolution whose quickest input gradient wants a second constant."""

    name: str
    size: int
    loss: float


def compact_convolutions(network: Network, plan: Plan, batch: int, allowance: float = ALLOWANCE) -> frozenset[str]:
    """The convolutions whose input gradient must use the forward's constant.

    Second constants (flipped kernels) are given up until the rest fits the allowance, those first that cost least
    time for their size: a product's columns are folded back over pixels, a kernel's size is inputs times outputs.

    Args:
        network, plan: what is trained.
        batch: of ``step``.
        allowance: bytes of second constants / bytes of the network's parameters.
    """
    total = sum(math.prod(p.shape) for p in plan.parameters.values())
    wanted = sorted(_seconds(network, plan, batch), key=lambda s: s.loss)
    size, given_up = sum(s.size for s in wanted), []
    for second in wanted:
        if size <= allowance * total:
            break
        given_up.append(second.name)
        size -= second.size
    return frozenset(given_up)


def _seconds(network: Network, plan: Plan, batch: int) -> list[_Second]:
    found = []
    for node in with_input_gradient(network, plan):
        if not is_trainable(node) or _role(network, plan, node) == "full":
            continue
        if plan.input_gradient == "centre" and _role(network, plan, node) == "centre":
            continue
        geometry = Geometry.of(node)
        arguments: Any = node.args
        kernel = network.constants[arguments[1].name]
        pixels = batch * math.prod(node.meta["val"].shape[2:])
        form = Convolution(
            kernel, None, geometry.stride, geometry.padding, geometry.dilation, geometry.groups
        ).gradient_form(pixels)
        if form != "product" and geometry.groups == 1:
            found.append(_Second(node.name, kernel.numel(), pixels / len(kernel)))
    return found


def with_input_gradient(network: Network, plan: Plan) -> list[fx.Node]:
    """The operators behind the cut whose input depends on a trained parameter, in order."""
    moving: set[fx.Node] = set()
    found: list[fx.Node] = []
    behind = after(network, plan.cut)
    for node in (n for n in network.operators if n in behind):
        moved = any(source in moving for source in node.all_input_nodes)
        if moved:
            found.append(node)
        if moved or _role(network, plan, node) != "frozen":
            moving.add(node)
    return found


def _role(network: Network, plan: Plan, node: fx.Node) -> str:
    roles = [plan.role(name) for name, _ in network.weights(node)]
    return next((role for role in roles if role != "frozen"), "frozen")
