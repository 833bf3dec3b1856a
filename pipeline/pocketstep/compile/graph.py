"""A network as one graph of ATen operators, every constant known by its name in the module."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

aten = torch.ops.aten
EXAMPLE_BATCH = 2
LINEAR = (aten.addmm.default, aten.mm.default)


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


def new_constant(network: Network, name: str, value: Tensor) -> fx.Node:
    """A constant that the module did not have, under a name of its own."""
    with network.graph.inserting_before(network.input):
        node = network.graph.placeholder("folded_" + name.replace(".", "_"))
    node.meta["val"] = network.constants[node.name] = value
    network.names[node.name] = name
    return node


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
