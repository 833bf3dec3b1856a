"""Tells ExecuTorch's XNNPACK lowering that our graphs are NHWC already.

ATen's convolutions and poolings are NCHW, so that ours stand between two permutations. XNNPACK computes them in NHWC,
and ExecuTorch 1.5 makes four transposes of that: each permutation, and a conversion of what it gave. Here a permutation
to NCHW is what it means, the same bytes under the tag NHWC, and the one back takes the tag off; neither is an operator
of the program. Clamps move before the latter, so that they are fused into the convolution.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import fx

from pocketstep.compile.graph import aten

TO_NCHW, TO_NHWC = [0, 3, 1, 2], [0, 2, 3, 1]
PERMUTE = "aten.permute_copy.default"
SAME_BYTES = "pocketstep.same_bytes"
"""In a node's ``meta``: it is its input under another tag."""


@contextmanager
def without_transposes() -> Iterator[None]:
    """While this is open, lowerings to XNNPACK treat permutations between NHWC and NCHW as tags."""
    from executorch.backends.xnnpack import _passes
    from executorch.backends.xnnpack._passes import ChannelsLastTaggedReshapePass
    from executorch.backends.xnnpack.operators.node_visitor import _node_visitor_dict as visitors
    from executorch.exir.dialects._ops import ops

    permute = ops.edge.aten.permute_copy.default
    usual: Any = visitors[PERMUTE]

    class Tagged(ChannelsLastTaggedReshapePass):  # type: ignore[misc]
        """ExecuTorch's pass, which knows these permutations."""

        def call(self, graph_module: fx.GraphModule) -> Any:
            for node in graph_module.graph.nodes:
                if node.target is permute and is_layout_only(node):
                    node.meta[SAME_BYTES] = list(node.args[1])
                    if node.meta[SAME_BYTES] == TO_NCHW:
                        ChannelsLastTaggedReshapePass.mark_as_nhwc_node(node)
            return super().call(graph_module)

        def requires_nhwc_input(self, node: fx.Node) -> bool:
            return node.meta.get(SAME_BYTES) == TO_NHWC or bool(super().requires_nhwc_input(node))

        def requires_nchw_inputs(self, node: fx.Node) -> bool:
            return node.meta.get(SAME_BYTES) == TO_NCHW or bool(super().requires_nchw_inputs(node))

        @staticmethod
        def mark_as_nhwc_node(node: fx.Node) -> None:
            if node.meta.get(SAME_BYTES) != TO_NHWC:
                ChannelsLastTaggedReshapePass.mark_as_nhwc_node(node)

    class Permutation(usual):  # type: ignore[misc]
        """ExecuTorch's writer of permutations, which writes no operator for these."""

        def define_node(self, node: fx.Node, graph: Any, ids: dict[fx.Node, int], handle: int) -> None:
            if SAME_BYTES not in node.meta:
                super().define_node(node, graph, ids, handle)
                return
            source = cast(fx.Node, node.args[0])
            self.define_tensor(source, graph, ids)
            ids[node] = ids[source]

    _passes.ChannelsLastTaggedReshapePass, visitors[PERMUTE] = Tagged, Permutation
    try:
        yield
    finally:
        _passes.ChannelsLastTaggedReshapePass, visitors[PERMUTE] = ChannelsLastTaggedReshapePass, usual


def is_layout_only(node: fx.Node) -> bool:
    """Whether a permutation is one between NHWC and NCHW of a value that is computed, for the program's own use."""
    source = node.args[0]
    computed = isinstance(source, fx.Node) and source.op == "call_function"
    inside = all(user.op != "output" for user in node.users)
    return node.args[1] in (TO_NCHW, TO_NHWC) and computed and inside


def clamps_first(exported: torch.export.ExportedProgram) -> None:
    """Moves clamps of a convolution's output before its permutation, as activations that XNNPACK fuses; in place."""
    graph = exported.graph
    for node in list(graph.nodes):
        bounds = _bounds(node)
        if bounds is None:
            continue
        permutation = node.args[0]
        if (
            permutation.target is not aten.permute.default
            or permutation.args[1] != TO_NHWC
            or len(permutation.users) > 1
        ):
            continue
        convolution = permutation.args[0]
        if convolution.target is not aten.convolution.default or len(convolution.users) > 1:
            continue
        with graph.inserting_before(permutation):
            if bounds == (0.0, None):
                activation = graph.call_function(aten.relu.default, (convolution,))
            else:
                activation = graph.call_function(aten.hardtanh.default, (convolution, *bounds))
        activation.meta = dict(convolution.meta)
        permutation.replace_input_with(convolution, activation)
        node.replace_all_uses_with(permutation)
        graph.erase_node(node)
    exported.graph_module.recompile()


def _bounds(node: fx.Node) -> tuple[float, float | None] | None:
    """Of a clamp that XNNPACK can fuse."""
    if node.target is aten.relu.default:
        return 0.0, None
    if node.target is not aten.clamp.default:
        return None
    low, high = cast(tuple[float | None, float | None], (*node.args[1:], None, None)[:2])
    if low is None or (high is None and low != 0):
        return None
    return float(low), None if high is None else float(high)
