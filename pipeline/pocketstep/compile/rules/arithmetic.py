"""Sums, gates and linear layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from pocketstep.compile import operators as op
from pocketstep.compile.rules.table import rank, rule
from pocketstep.compile.trace import aten

if TYPE_CHECKING:
    from pocketstep.compile.walk import Walk


@rule(aten.add.Tensor)
def add(walk: Walk, node: fx.Node) -> Tensor:
    """A residual sum, or a shift by a constant a channel."""
    first, second = (walk.operand(argument, rank(node)) for argument in node.args[:2])
    alpha: Any = node.kwargs.get("alpha", 1)
    total: Tensor = first + (second if alpha == 1 else second * alpha)
    return total


@rule(aten.mul.Tensor)
def multiply(walk: Walk, node: fx.Node) -> Tensor:
    """A gate, or a scale by a constant a channel."""
    first, second = (walk.operand(argument, rank(node)) for argument in node.args[:2])
    gated: Tensor = first * second
    return gated


@rule(aten.addmm.default)
def linear(walk: Walk, node: fx.Node) -> Tensor:
    """A linear layer; the head's rows are trained, with room for spare classes."""
    arguments: Any = node.args
    bias, x, transposed = arguments[:3]
    weight_node = transposed.args[0]
    value = walk.value(x)
    if node is walk.plan.head:
        logits = op.Matrix.apply(value, walk.state["head.weight"])
        shifted: Tensor = op.Shift.apply(logits, walk.state["head.bias"])
        return shifted
    return torch.nn.functional.linear(value, walk.constant(weight_node), walk.constant(bias))
