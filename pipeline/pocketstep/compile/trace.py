"""A network as one graph of ATen operators, batch norms folded, every constant known by its name in the module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from pocketstep_device.errors import InputError

aten = torch.ops.aten
EXAMPLE_BATCH = 2
BATCH_NORM = aten._native_batch_norm_legit_no_training.default


@dataclass(frozen=True)
class Network:
    """A traced network.

    Attributes:
        graph: core ATen operators on NCHW activations, one input, one output (the logits).
        constants: placeholder node's name -> its tensor (weights, folded biases, buffers).
        names: placeholder node's name -> qualified name in the module (``group3.0.conv1.weight``).
        input: the placeholder of the images, NCHW.
        output: the node of the logits, (N, classes).
    """

    graph: fx.Graph
    constants: dict[str, Tensor]
    names: dict[str, str]
    input: fx.Node
    output: fx.Node

    @property
    def operators(self) -> list[fx.Node]:
        """The operators in the order in which they run."""
        return [node for node in self.graph.nodes if node.op == "call_function"]

    def constant(self, node: object) -> Tensor | None:
        """The tensor behind an argument, or None where it is no constant."""
        return self.constants.get(node.name) if isinstance(node, fx.Node) else None

    def weights(self, node: fx.Node) -> Iterator[tuple[str, Tensor]]:
        """Names and values of the constants that an operator reads, also through a transpose."""
        for argument in node.all_input_nodes:
            if argument.target is aten.permute.default:
                argument = argument.all_input_nodes[0]
            if argument.name in self.constants:
                yield self.names[argument.name], self.constants[argument.name]

    def run(self, images: Tensor) -> dict[fx.Node, Tensor]:
        """Runs the graph on images (N, C, H, W) with PyTorch's own operators; the oracle of everything compiled.

        Returns:
            The value of every operator, NCHW.
        """
        return self.run_from(self.input, images, {})

    def run_from(self, start: fx.Node, value: Tensor, replaced: Mapping[str, Tensor]) -> dict[fx.Node, Tensor]:
        """As :meth:`run`, but only what comes after ``start``, whose value is given.

        ``replaced``: qualified constant name -> tensor to use instead (a leaf that autograd shall see).
        """
        values: dict[fx.Node, Tensor] = {start: value}

        def read(node: fx.Node) -> Tensor:
            if node in values:
                return values[node]
            return replaced.get(self.names[node.name], self.constants[node.name])

        later = start is self.input
        for node in self.operators:
            if later:
                arguments = fx.node.map_arg(node.args, read)
                values[node] = call(node, arguments, value.shape[0])
            later = later or node is start
        return values


def call(node: fx.Node, arguments: Any, batch: int) -> Any:
    """Calls a node's own operator; a view's leading dimension follows the batch, whatever the trace had."""
    target: Any = node.target
    if target is aten.view.default:
        return arguments[0].reshape(sized(arguments[1], batch))
    return target(*arguments, **node.kwargs)


def sized(shape: Sequence[int], batch: int) -> list[int]:
    """A view's shape for another batch than the trace's."""
    return [shape[0] if shape[0] < 0 else shape[0] * batch // EXAMPLE_BATCH, *shape[1:]]


def module_path(node: fx.Node) -> str:
    """The innermost module that an operator belongs to, for messages and cuts."""
    paths = module_paths(node)
    return paths[-1] if paths else ""


def module_paths(node: fx.Node) -> list[str]:
    """All modules around an operator, outermost first."""
    stack: Mapping[str, tuple[str, Any]] = node.meta.get("nn_module_stack") or {}
    return [path for path, _ in stack.values() if path]


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
        exported = torch.export.export(model.eval(), (example,)).run_decompositions()
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
    network = Network(graph, constants, names, inputs[0], outputs[0])
    fold_batch_norms(network)
    fold_constants(network)
    return network


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
    """Computes what depends on constants only (a scale that is reshaped), but for the transpose before a product."""
    for node in network.operators:
        sources = node.all_input_nodes
        if not sources or not all(source.name in network.constants for source in sources):
            continue
        if isinstance(node.meta["val"], Tensor) and not any(u.target is aten.addmm.default for u in node.users):
            arguments = fx.node.map_arg(node.args, lambda source: network.constants[source.name])
            target: Any = node.target
            value = target(*arguments, **node.kwargs)
            node.replace_all_uses_with(_new_constant(network, node.name, value))
    network.graph.eliminate_dead_code()


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
    conv.update_arg(2, _new_constant(network, name, value))
    return conv


def _affine(network: Network, node: fx.Node, x: fx.Node, scale: Tensor, shift: Tensor) -> fx.Node:
    shape = [-1] + [1] * (x.meta["val"].dim() - 2)
    name = module_path(node)
    scale_node = _new_constant(network, f"{name}.scale", scale.view(shape))
    shift_node = _new_constant(network, f"{name}.shift", shift.view(shape))
    with network.graph.inserting_before(node):
        product = network.graph.call_function(aten.mul.Tensor, (x, scale_node))
        result = network.graph.call_function(aten.add.Tensor, (product, shift_node))
    for new in (product, result):
        new.meta = {**node.meta, "val": x.meta["val"]}
    return result


def _new_constant(network: Network, name: str, value: Tensor) -> fx.Node:
    with network.graph.inserting_before(network.input):
        node = network.graph.placeholder("folded_" + name.replace(".", "_"))
    node.meta["val"] = network.constants[node.name] = value
    network.names[node.name] = name
    return node


def _required(network: Network, argument: object) -> Tensor:
    value = network.constant(argument)
    if value is None:
        raise InputError(
            "a batch norm's statistics are computed by the network itself; only constant ones can be folded"
        )
    return value
