"""What a traced network does with constants only, done once: batch norms, reshaped scales, standardised weights."""

from __future__ import annotations

import operator
from typing import Any

from torch import Tensor, fx

from pocketstep.compile.graph import EXAMPLE_BATCH, LINEAR, Network, aten, module_path, new_constant
from pocketstep_device.errors import InputError

MAKERS = (aten.arange.start_step, aten.full.default, aten.scalar_tensor.default)
BATCH_NORM = aten._native_batch_norm_legit_no_training.default


def fold_batch_norms(network: Network) -> None:
    """Folds every batch norm (eval mode) into the convolution before it, or leaves one multiply and one add.

    A batch norm is y = x * s + t with s = gamma / sqrt(var + eps) and t = beta - mean * s, a channel each
    (Ioffe and Szegedy 2015, eq. at inference).
    """
    for node in network.operators:
        if node.target is BATCH_NORM:
            _fold_one(network, node)
    network.graph.eliminate_dead_code()


def fold_constants(network: Network) -> None:
    """Computes what depends on constants only (a scale that is reshaped), but for transposes and expansions."""
    for node in network.operators:
        if node.target is operator.getitem or not _is_foldable(network, node):
            continue
        arguments = fx.node.map_arg(node.args, lambda source: network.constants[source.name])
        target: Any = node.target
        value = target(*arguments, **node.kwargs)
        if isinstance(value, Tensor):
            node.replace_all_uses_with(new_constant(network, _constant_name(node), value))
            continue
        for piece in list(node.users):
            index: Any = piece.args[1]
            piece.replace_all_uses_with(new_constant(network, _constant_name(piece), value[index]))
    network.graph.eliminate_dead_code()


def _is_foldable(network: Network, node: fx.Node) -> bool:
    sources = node.all_input_nodes
    if not sources:
        shape: Any = getattr(node.meta["val"], "shape", (EXAMPLE_BATCH,))
        return node.target in MAKERS and (len(shape) == 0 or shape[0] != EXAMPLE_BATCH)
    if any(user.target in LINEAR for user in node.users) or node.target is aten.expand.default:
        return False
    return all(source.name in network.constants for source in sources)


def _constant_name(node: fx.Node) -> str:
    """Unlike every other, and saying where it is used."""
    return ".".join(part for part in (module_path(node), node.name) if part)


def _fold_one(network: Network, node: fx.Node) -> None:
    before, gamma, beta, mean, variance = node.args[:5]
    scale = (_required(network, variance) + float(node.args[6])).rsqrt()  # type: ignore[arg-type]
    if gamma is not None:
        scale = scale * _required(network, gamma)
    shift = -_required(network, mean) * scale
    if beta is not None:
        shift = shift + _required(network, beta)
    assert isinstance(before, fx.Node)
    foldable = before.target is aten.convolution.default and len(before.users) == 1 and not before.args[6]
    if foldable and isinstance(before.args[1], fx.Node) and len(before.args[1].users) == 1:
        replacement = _fold_into_convolution(network, before, scale, shift)
    else:
        replacement = _affine(network, node, before, scale, shift)
    for user in list(node.users):  # getitem(node, 0): the normalised output
        user.replace_all_uses_with(replacement)


def _fold_into_convolution(network: Network, conv: fx.Node, scale: Tensor, shift: Tensor) -> fx.Node:
    weight, bias = conv.args[1], conv.args[2]
    assert isinstance(weight, fx.Node)
    kernel = network.constants[weight.name]
    network.constants[weight.name] = kernel * scale.view(-1, *[1] * (kernel.dim() - 1))
    old_bias = network.constant(bias)
    value = shift if old_bias is None else old_bias * scale + shift
    name = network.names[weight.name].removesuffix("weight") + "bias"
    conv.update_arg(2, new_constant(network, name, value))
    return conv


def _affine(network: Network, node: fx.Node, x: fx.Node, scale: Tensor, shift: Tensor) -> fx.Node:
    shape = [-1] + [1] * (x.meta["val"].dim() - 2)
    name = module_path(node)
    scale_node = new_constant(network, f"{name}.scale", scale.view(shape))
    shift_node = new_constant(network, f"{name}.shift", shift.view(shape))
    with network.graph.inserting_before(node):
        product = network.graph.call_function(aten.mul.Tensor, (x, scale_node))
        result = network.graph.call_function(aten.add.Tensor, (product, shift_node))
    for new in (product, result):
        new.meta = {**node.meta, "val": x.meta["val"]}
    return result


def _required(network: Network, argument: object) -> Tensor:
    value = network.constant(argument)
    if value is None:
        raise InputError(
            "a batch norm's statistics are computed by the network itself; only constant ones can "
            "be folded: give it track_running_stats=True"
        )
    return value
