"""The table itself, and how a rule enters it."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor, fx

from pocketstep.compile.graph import aten
from pocketstep.compile.layouts import Laid
from pocketstep.compile.operators.layout import Pair

if TYPE_CHECKING:
    from pocketstep.compile.walk import Walk


Value = Tensor | Laid | tuple[Laid, ...]
"""What a rule gives: a tensor as operators take it (NHWC for maps), one that says how it lies, or several."""

Rule = Callable[["Walk", fx.Node], Value]
Form = Callable[[fx.Node], bool]
SEQUENCE = "convolution of a sequence"
RULES: dict[Any, Rule] = {}
FORMS: dict[Any, Form] = {}
R = TypeVar("R", bound=Rule)


def rule(*targets: Any, takes: Form | None = None) -> Callable[[R], R]:
    """Enters a rule into the table for each of the ATen operators; ``takes``: which forms of them it has."""

    def enter(function: R) -> R:
        RULES.update(dict.fromkeys(targets, function))
        if takes is not None:
            FORMS.update(dict.fromkeys(targets, takes))
        return function

    return enter


def rule_for(node: fx.Node) -> Rule | None:
    """The operator's rule; None where the table has none, or only one for other forms of the operator."""
    target = node.target
    if target is aten.convolution.default:
        return _convolution(node)
    if target is operator.getitem and not _is_first_or_piece(node):
        return None
    form = FORMS.get(target)
    return RULES.get(target) if form is None or form(node) else None


def _convolution(node: fx.Node) -> Rule | None:
    """Of maps or of sequences, not transposed, and with a constant kernel."""
    kernel, transposed = argument(node, 1, None), argument(node, 6, False)
    if transposed or kernel.op != "placeholder":
        return None
    return RULES.get({4: aten.convolution.default, 3: SEQUENCE}.get(rank(kernel)))


def _is_first_or_piece(node: fx.Node) -> bool:
    """Of operators with several results only a split's pieces count, or the first: no indices, no statistics."""
    source: Any = node.args[0]
    return bool(source.target is aten.split_with_sizes.default or node.args[1] == 0)


def rank(node: object) -> int:
    """The rank that ATen sees: the value itself may lie in NHWC."""
    return int(node.meta["val"].dim()) if isinstance(node, fx.Node) else 0


def argument(node: fx.Node, index: int, default: Any) -> Any:
    """A positional argument that may be missing."""
    return node.args[index] if len(node.args) > index else default


def pair(values: Sequence[int]) -> Pair:
    """One number for both sides, or one for each."""
    return (values[0], values[-1])
