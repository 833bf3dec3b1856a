"""A module as one graph of ATen operators, batch norms folded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from pocketstep.compile.folding import fold_batch_norms, fold_constants
from pocketstep.compile.graph import EXAMPLE_BATCH, Network, aten
from pocketstep_device.errors import InputError

KEPT_WHOLE = (
    aten.celu.default, aten.hardsigmoid.default, aten.hardswish.default, aten.mish.default, aten.prelu.default,
    aten.silu.default, aten.softplus.default, aten.instance_norm.default, aten.reflection_pad2d.default,
    aten.replication_pad2d.default, aten.upsample_bicubic2d.vec, aten._upsample_nearest_exact2d.vec,
    aten._upsample_bilinear2d_aa.vec, aten._upsample_bicubic2d_aa.vec, aten._safe_softmax.default,
)  # fmt: skip
"""Operators beyond the core set that have rules of their own: taken apart they would need comparisons and indices."""


def trace(model: nn.Module, input_shape: tuple[int, int, int]) -> Network:
    """Exports a module in eval mode and folds its batch norms.

    Args:
        model: any ``nn.Module`` from (N, C, H, W) float32 to logits (N, classes).
        input_shape: (C, H, W).

    Raises:
        InputError: when ``torch.export`` cannot trace the module, or its output is not one tensor (N, classes).
    """
    example = torch.zeros(EXAMPLE_BATCH, *input_shape)
    try:
        exported = torch.export.export(model.eval(), (example,)).run_decompositions(_decompositions())
    except Exception as error:
        raise InputError(
            f"torch.export cannot trace this network: {error}. Data-dependent Python in forward() is the usual "
            "reason; make forward() a straight sequence of tensor operations."
        ) from error
    signature = exported.graph_signature
    names: dict[str, str] = {}
    constants: dict[str, Tensor] = {}
    stored = {**exported.state_dict, **exported.constants}
    for spec in signature.input_specs:
        if spec.target is not None:
            names[spec.arg.name] = spec.target
            constants[spec.arg.name] = stored[spec.target].detach()
    graph = exported.graph_module.graph
    inputs = [n for n in graph.nodes if n.op == "placeholder" and n.name not in constants]
    outputs = next(n for n in graph.nodes if n.op == "output").args[0]
    if len(inputs) != 1 or len(outputs) != 1 or outputs[0].meta["val"].dim() != 2:
        raise InputError("the network must map one image tensor to one tensor of logits (N, classes)")
    network = Network(graph, constants, names, inputs[0])
    _drop_idle(network)
    fold_batch_norms(network)
    fold_constants(network)
    return network


def _decompositions() -> dict[Any, Callable[..., Any]]:
    """To core ATen, but for what has a rule as it is."""
    table: Any = torch.export.default_decompositions()
    for kept in KEPT_WHOLE:
        table.pop(kept, None)
    return table  # type: ignore[no-any-return]


def _drop_idle(network: Network) -> None:
    """Removes assertions, and strides and types that a value has already."""
    for node in network.operators[::-1]:
        if node.target is aten._assert_tensor_metadata.default:
            network.graph.erase_node(node)
        elif node.target in (aten.as_strided.default, aten._to_copy.default) and _changes_nothing(node):
            node.replace_all_uses_with(node.all_input_nodes[0])
            network.graph.erase_node(node)


def _changes_nothing(node: fx.Node) -> bool:
    before, after = node.all_input_nodes[0].meta["val"], node.meta["val"]
    real = [axis for axis, size in enumerate(before.shape) if size > 1]
    same_strides = before.shape == after.shape and all(before.stride(a) == after.stride(a) for a in real)
    offset = node.args[3] if node.target is aten.as_strided.default and len(node.args) > 3 else 0
    return before.dtype == after.dtype and same_strides and not offset
