"""Activations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, fx

from pocketstep.compile import operators as op
from pocketstep.compile.rules.table import rule
from pocketstep.compile.trace import aten

if TYPE_CHECKING:
    from pocketstep.compile.walk import Walk


@rule(aten.relu.default, aten.hardtanh.default)
def clip(walk: Walk, node: fx.Node) -> Tensor:
    """ReLU, and ReLU6 as the hard tanh from zero."""
    arguments: Any = node.args
    top = float(arguments[2]) if len(arguments) > 2 else None
    result: Tensor = op.Clip.apply(walk.value(node.args[0]), top)
    return result
