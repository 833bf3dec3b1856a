"""A network as one graph of ATen operators, batch norms folded, every constant known by its name in the module."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from pocketstep_device.errors import InputError

aten = torch.ops.aten
EXAMPLE_BATCH = 2
LINEAR = (aten.addmm.default, aten.mm.default)
KEPT_WHOLE = (
    aten.celu.default, aten.hardsigmoid.default, aten.hardswish.default, aten.mish.default, aten.prelu.default,
    aten.silu.default, aten.softplus.default, aten.instance_norm.default, aten.reflection_pad2d.default,
    aten.replication_pad2d.default, aten.upsample_bicubic2d.vec, aten._upsample_nearest_exact2d.vec,
    aten._upsample_bilinear2d_aa.vec, aten._upsample_bicubic2d_aa.vec, aten._safe_softmax.default,
)  # fmt: skip
"""Operators beyond the core set that have rules of their own: taken apart they would need comparisons and indices."""

MAKERS = (aten.arange.start_step, aten.full.default, aten.scalar_tensor.default)
BATCH_NORM = aten._native_batch_norm_legit_no_training.default


@dataclass(frozen=True)
class Network:
    """A traced network.

    Attributes:
        graph: core ATen operators on NCHW activations, one input, one output (the logits).
        constants: placeholder node's name -> its tensor (weights, folded biases, buffers).
        names: placeholder node's name -> qualified name in the module (``group3.0.conv1.weight``).
        input: the placeholder of the images, NCHW.
    """

    graph: fx.Graph
    constants: dict[str, Tensor]
    names: dict[str, str]
    input: fx.Node

    @property
    def output(self) -> fx.Node:
        """The operator that gives the logits, (N, classes)."""
        outputs: Any = next(node for node in self.graph.nodes if node.op == "output").args[0]
        node: fx.Node = outputs[0]
        return node

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

    def run_from(
        self,
        start: fx.Node,
        value: Tensor,
        replaced: Mapping[str, Tensor],
        special: Mapping[fx.Node, Callable[..., Any]] | None = None,
    ) -> dict[fx.Node, Tensor]:
        """As :meth:`run`, but only what comes after ``start``, whose value is given.

        ``replaced``: qualified constant name -> tensor to use instead (a leaf that autograd shall see).
        ``special``: nodes that another function of the same arguments stands for.
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
                function = (special or {}).get(node)
                values[node] = function(*arguments) if function else call(node, arguments, value.shape[0])
            later = later or node is start
        return values


def call(node: fx.Node, arguments: Any, batch: int) -> Any:
    """Calls a node's own operator; where sizes are arguments, the batch counts, whatever the trace had."""
    target: Any = node.target
    if target is aten.view.default:
        return arguments[0].reshape(sized(arguments[1], batch))
    if target is aten.native_group_norm.default:
        return target(*arguments[:3], arguments[0].shape[0], *arguments[4:])
    if target is aten.expand.default:
        return arguments[0].expand(expanded(arguments[0].shape, arguments[1], batch))
    return target(*arguments, **node.kwargs)


def sized(shape: Sequence[int], batch: int) -> list[int]:
    """A view's shape for another batch than the trace's: the first dimension that is not 1 is made of it."""
    place = next((index for index, size in enumerate(shape) if size != 1), 0)
    size = shape[place] if shape[place] < 0 else shape[place] * batch // EXAMPLE_BATCH
    return [*shape[:place], size, *shape[place + 1 :]]


def expanded(own: Sequence[int], shape: Sequence[int], batch: int) -> list[int]:
    """An expansion's shape for another batch than the trace's; dimensions that are there already keep their size."""
    added = len(shape) - len(own)
    sizes = [*shape[:added], *(size if size > 1 else new for size, new in zip(own, shape[added:], strict=True))]
    if (added or own[0] == 1) and shape[0] % EXAMPLE_BATCH == 0:
        sizes[0] = shape[0] * batch // EXAMPLE_BATCH
    return [1 if size == -1 else size for size in sizes]


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


def new_constant(network: Network, name: str, value: Tensor) -> fx.Node:
    """A constant that the module did not have, under a name of its own."""
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
