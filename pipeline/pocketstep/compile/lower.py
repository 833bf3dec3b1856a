"""Traces a signature through autograd, once, into a plain inference graph."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from pocketstep.compile.graph import aten
from pocketstep.compile.signatures import Signature

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

    Max pooling becomes the operator without indices, which is the one that XNNPACK looks for. A number less a tensor
    becomes a sum, because LiteRT's converter (litert-torch 0.10) turns the operands round where the tensor is
    transposed. Joins of joins get a view between, or the converter makes one of them, of more tensors than XNNPACK
    takes.
    """
    traced.graph.eliminate_dead_code()
    for node in list(traced.graph.nodes):
        if node.target is aten.max_pool2d_with_indices.default and [u.args[1] for u in node.users] == [0]:
            _replace(next(iter(node.users)), aten.max_pool2d.default, node.args)
        if (node.target is aten.rsub.Scalar and len(node.args) == 2) or _is_number_less(traced, node):
            number, tensor = node.args if node.target is aten.sub.Tensor else node.args[::-1]
            with traced.graph.inserting_before(node):
                negative = traced.graph.call_function(aten.mul.Tensor, (tensor, -1.0))
            negative.meta = dict(tensor.meta)
            _replace(node, aten.add.Tensor, (negative, number))
        if node.target is aten.cat.default and any(part.target is aten.cat.default for part in node.args[0]):
            _join_flat(node)
        if node.target in VIEWS and node.args[0].target in VIEWS:
            node.update_arg(0, node.args[0].args[0])
        if node.target in NOTHING and _layout(node) == _layout(node.args[0]):
            node.replace_all_uses_with(node.args[0])
    traced.graph.eliminate_dead_code()
    traced.recompile()


def _replace(node: torch.fx.Node, target: Any, arguments: tuple[Any, ...]) -> None:
    with node.graph.inserting_before(node):
        replacement = node.graph.call_function(target, arguments)
    replacement.meta = dict(node.meta)
    node.replace_all_uses_with(replacement)


def _join_flat(node: torch.fx.Node) -> None:
    """A join as one of matrices, or of matrices as one of rank 3."""
    arguments: Any = node.args
    shape, axis = list(node.meta["val"].shape), arguments[1] if len(arguments) > 1 else 0
    before, behind = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    sizes = [behind] if len(shape) == 2 else []
    with node.graph.inserting_before(node):
        parts = [_viewed(part, [before, -1, *sizes]) for part in arguments[0]]
        joined = node.graph.call_function(aten.cat.default, (parts, 1))
        joined.meta["val"] = node.meta["val"].contiguous().view(before, -1, *sizes)
        whole = _viewed(joined, shape)
    node.replace_all_uses_with(whole)


def _viewed(node: torch.fx.Node, shape: list[int]) -> torch.fx.Node:
    """A view, of a copy where the strides do not allow one."""
    value: Tensor = node.meta["val"]
    if value.reshape(shape).untyped_storage()._cdata != value.untyped_storage()._cdata:
        node = node.graph.call_function(aten.clone.default, (node,), {"memory_format": torch.contiguous_format})
        node.meta["val"] = value = value.contiguous()
    view = node.graph.call_function(aten.view.default, (node, shape))
    view.meta["val"] = value.view(shape)
    return view


def _is_number_less(traced: torch.fx.GraphModule, node: torch.fx.Node) -> bool:
    """Whether a difference begins with a constant that is the same number throughout."""
    if node.target is not aten.sub.Tensor or not isinstance(node.args[0], torch.fx.Node) or node.kwargs:
        return False
    if node.args[0].op != "get_attr":
        return False
    constant: Tensor = getattr(traced, str(node.args[0].target))
    return bool((constant == constant.reshape(-1)[0]).all())


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
