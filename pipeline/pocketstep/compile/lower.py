"""Traces a signature through autograd, once, into a plain inference graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from pocketstep.compile.signatures import Signature
from pocketstep.compile.trace import aten

VIEWS = {aten.view.default, aten._unsafe_view.default}
NOTHING = {aten.detach.default, aten.alias.default, aten.clone.default, *VIEWS}


class _Program(nn.Module):
    def __init__(self, graph: torch.fx.GraphModule):
        super().__init__()
        self.graph_module = graph

    def forward(self, *inputs: Tensor) -> Any:
        return self.graph_module(*inputs)


@dataclass(frozen=True)
class Graph:
    """A lowered signature: positional float32 inputs, a tuple of outputs, inference operators only."""

    signature: Signature
    exported: torch.export.ExportedProgram


def examples(signature: Signature) -> tuple[Tensor, ...]:
    """Inputs of the right shapes; values do not matter to a trace."""
    return tuple(torch.zeros(spec.shape) for spec in signature.inputs)


def _layout(node: torch.fx.Node) -> tuple[Any, Any]:
    value: Tensor = node.meta["val"]
    return value.shape, value.stride()


def simplify(traced: torch.fx.GraphModule) -> None:
    """Removes what autograd leaves behind: detachments, copies, views of views or of the same shape, dead code.

    Max pooling becomes the operator without indices, which is the one that XNNPACK looks for.
    """
    traced.graph.eliminate_dead_code()
    for node in list(traced.graph.nodes):
        if node.target is aten.max_pool2d_with_indices.default and [u.args[1] for u in node.users] == [0]:
            with traced.graph.inserting_before(node):
                plain = traced.graph.call_function(aten.max_pool2d.default, node.args)
            plain.meta["val"] = node.meta["val"][0]
            next(iter(node.users)).replace_all_uses_with(plain)
        if node.target in VIEWS and node.args[0].target in VIEWS:
            node.update_arg(0, node.args[0].args[0])
        if node.target in NOTHING and _layout(node) == _layout(node.args[0]):
            node.replace_all_uses_with(node.args[0])
    traced.graph.eliminate_dead_code()
    traced.recompile()


def lower(signature: Signature) -> Graph:
    """Forward, loss, backward and optimiser become one graph of inference operators."""
    names = [spec.name for spec in signature.inputs]
    outputs = [spec.name for spec in signature.outputs]

    def function(*inputs: Tensor) -> tuple[Tensor, ...]:
        values = signature.function(dict(zip(names, inputs, strict=True)))
        return tuple(values[name] for name in outputs)

    inputs = examples(signature)
    traced = make_fx(function)(*inputs)
    simplify(traced)
    with torch.no_grad():
        exported = torch.export.export(_Program(traced), inputs, strict=False)
    for node in exported.graph.nodes:  # provenance is copied by every later pass: half of the lowering's time
        node.meta = {key: node.meta[key] for key in ("val", "tensor_meta") if key in node.meta}
    return Graph(signature, exported)
