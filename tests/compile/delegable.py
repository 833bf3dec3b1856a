"""Which operators, in which forms, the XNNPACK delegates of ExecuTorch and LiteRT both take; measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from pocketstep.compile.lower import Graph

aten = torch.ops.aten
Form = Callable[[fx.Node], bool]


def _shape(node: Any) -> tuple[int, ...]:
    value = node.meta["val"] if isinstance(node, fx.Node) else None
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def _broadcasts_one_side(node: fx.Node) -> bool:
    """LiteRT expands both sides of an operation of which neither has the result's shape."""
    return any(_shape(argument) == _shape(node) for argument in node.args[:2])


def _constant(node: Any) -> bool:
    """A constant of the program, not one of its inputs."""
    return isinstance(node, fx.Node) and node.op in ("get_attr", "placeholder") and not node.name.startswith("inputs")


def _few_different(node: fx.Node) -> bool:
    parts: Any = node.args[0]
    return 2 <= len(parts) == len(set(parts)) <= 4


def _argument(node: fx.Node, index: int, default: Any) -> Any:
    return node.args[index] if len(node.args) > index else default


def always(node: fx.Node) -> bool:
    return True


ALLOWED: dict[Any, Form] = {
    **dict.fromkeys(
        [
            aten.abs.default, aten.neg.default, aten.ceil.default, aten.clamp.default, aten.relu.default,
            aten.leaky_relu.default, aten.hardswish.default, aten.gelu.default, aten.sigmoid.default, aten.tanh.default,
            aten.exp.default, aten.log.default, aten.sqrt.default, aten.rsqrt.default, aten.bmm.default,
            aten.view.default, aten._unsafe_view.default, aten.clone.default,
        ],
        always,
    ),
    **dict.fromkeys(
        [aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.maximum.default], _broadcasts_one_side
    ),
    **dict.fromkeys(
        [aten.permute.default, aten.transpose.int, aten.t.default], lambda node: len(_shape(node)) <= 5
    ),
    aten.mm.default: lambda node: _constant(node.args[1]),
    aten.convolution.default: lambda node: _constant(node.args[1]),
    aten._softmax.default: lambda node: _argument(node, 1, 0) in (-1, len(_shape(node)) - 1),
    aten.slice.Tensor: lambda node: _argument(node, 4, 1) == 1,
    aten.cat.default: _few_different,
    aten.constant_pad_nd.default: lambda node: (
        min(_argument(node, 1, [])) >= 0 and _argument(node, 2, 0) == 0 and len(_shape(node)) <= 4
    ),
    aten.avg_pool2d.default: lambda node: set(_argument(node, 3, [0])) == {0} and not _argument(node, 4, False),
    aten.max_pool2d.default: lambda node: set(_argument(node, 3, [0])) == {0} and not _argument(node, 5, False),
}  # fmt: skip


def outside(graph: Graph) -> list[str]:
    """The operators of a lowered program that a delegate would leave, as text; none where all is well."""
    exported = graph.exported
    lifted = exported.graph_signature.inputs_to_lifted_tensor_constants
    uniform = {name for name, key in lifted.items() if _is_uniform(exported.constants[key])}
    nodes = [node for node in exported.graph.nodes if node.op == "call_function"]
    return [
        node.format_node() + f" -> {_shape(node)}"
        for node in nodes
        if node.target not in ALLOWED or not ALLOWED[node.target](node) or _is_turned_round(node, uniform)
    ]


def _is_uniform(constant: Any) -> bool:
    return bool((constant == constant.reshape(-1)[0]).all())


def _is_turned_round(node: fx.Node, uniform: set[str]) -> bool:
    """LiteRT's converter turns the operands round where a number stands before a transposed tensor."""
    first = node.args[0] if node.args else None
    ordered = node.target in (aten.sub.Tensor, aten.div.Tensor)
    return ordered and (not isinstance(first, fx.Node) or first.name in uniform)
