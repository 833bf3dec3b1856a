"""The head: the layer that gives the logits, whose rows are the classes."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import fx

from pocketstep.compile.graph import LINEAR, Network, aten, module_path, new_constant
from pocketstep_device.errors import InputError

VIEWS = (aten.view.default, aten._unsafe_view.default)


def find_head(network: Network) -> fx.Node:
    """The last linear layer, or a 1x1 convolution with only activations and pooling behind it (SqueezeNet).

    A head without a bias is given a bias of zeros, so that every class has one.

    Raises:
        InputError: the network ends in something else.
    """
    node = network.output
    while node.target not in LINEAR and node.target is not aten.convolution.default:
        before = [s for s in node.all_input_nodes if s.name not in network.constants]
        if len(before) != 1 or before[0] is network.input:
            break
        node = before[0]
    if node.target is aten.mm.default:
        return _with_bias(network, node)
    if node.target is aten.addmm.default and node is network.output:
        return node
    if node.target is aten.convolution.default and _is_pointwise(node):
        _let_views_grow(network, node)
        return node if node.args[2] is not None else _with_bias(network, node)
    raise InputError(
        f"the network ends in {network.output.target} ({module_path(network.output) or 'top level'}), not in a linear "
        "layer or a 1x1 convolution; end it in nn.Linear so that new classes have rows to live in"
    )


def features_node(head: fx.Node) -> fx.Node:
    """What the head sees: (N, D), or a map (N, D, H, W) whose mean over the pixels counts."""
    return cast(fx.Node, head.args[1] if head.target is aten.addmm.default else head.args[0])


def _is_pointwise(node: fx.Node) -> bool:
    arguments: Any = node.args
    return tuple(arguments[1].meta["val"].shape[2:]) == (1, 1) and bool(arguments[8] == 1) and set(arguments[3]) == {1}


def _let_views_grow(network: Network, head: fx.Node) -> None:
    """Views behind a convolutional head must follow its number of rows, which spare classes change."""
    order = network.operators
    for node in order[order.index(head) + 1 :]:
        if node.target in VIEWS:
            shape: Any = node.args[1]
            node.update_arg(1, [shape[0], -1])


def _with_bias(network: Network, node: fx.Node) -> fx.Node:
    linear = node.target is aten.mm.default
    weight: Any = node.args[1]
    weight = weight.args[0] if linear else weight
    rows = network.constants[weight.name].shape[0]
    bias = new_constant(network, network.names[weight.name].removesuffix("weight") + "bias", torch.zeros(rows))
    if not linear:
        node.update_arg(2, bias)
        return node
    with network.graph.inserting_before(node):
        replacement = network.graph.call_function(aten.addmm.default, (bias, *node.args))
    replacement.meta = dict(node.meta)
    node.replace_all_uses_with(replacement)
    network.graph.erase_node(node)
    return replacement
