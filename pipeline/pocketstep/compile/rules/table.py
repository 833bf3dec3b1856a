"""The table itself, and how a rule enters it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor, fx

from pocketstep.compile.trace import aten

if TYPE_CHECKING:
    from pocketstep.compile.walk import Walk


Rule = Callable[["Walk", fx.Node], Tensor]
RULES: dict[Any, Rule] = {}
R = TypeVar("R", bound=Rule)

NHWC_DIMENSION = {0: 0, 1: 3, 2: 1, 3: 2}


def rule(*targets: Any) -> Callable[[R], R]:
    """Enters a rule into the table for each of the ATen operators."""

    def enter(function: R) -> R:
        RULES.update(dict.fromkeys(targets, function))
        return function

    return enter


def rule_for(node: fx.Node) -> Rule | None:
    """The operator's rule; None where the table has none, or only one for another form of the operator."""
    if node.target is aten.convolution.default and node.args[6]:  # transposed
        return None
    if node.target is aten.hardtanh.default and (len(node.args) < 3 or node.args[1] != 0):
        return None
    return RULES.get(node.target)


def rank(node: object) -> int:
    """The rank that ATen sees: the value itself may lie in NHWC."""
    return int(node.meta["val"].dim()) if isinstance(node, fx.Node) else 0


def pair(values: Sequence[int]) -> Pair:
    """One number for both sides, or one for each."""
    return (values[0], values[-1])
