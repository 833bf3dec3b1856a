"""The values of a run: by the operator that gave them, and how they lie."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, fx

from pocketstep.compile.graph import Network, call
from pocketstep.compile.layouts import Laid, standard
from pocketstep.compile.operators import frozen
from pocketstep.compile.rules.table import Value


class ValueStore:
    """What rules read and write.

    Args:
        network: the traced network.
    """

    def __init__(self, network: Network):
        self.network = network
        self.values: dict[fx.Node, Laid | tuple[Any, ...]] = {}
        self.batch = 0

    def put(self, node: fx.Node, value: Value) -> None:
        """Keeps what a rule gave; a bare tensor lies as operators take it, maps in NHWC."""
        self.values[node] = Laid.standard(value) if isinstance(value, Tensor) else value

    def laid(self, argument: object) -> Laid:
        """The value of an argument, activation or constant, and how it lies."""
        if self.is_constant(argument):
            return Laid.plain(self.constant(argument))
        assert isinstance(argument, fx.Node), argument
        value = self.values[argument]
        assert isinstance(value, Laid), argument
        return value

    def value(self, argument: object) -> Tensor:
        """The value of an argument as operators take it: maps in NHWC; a constant as it is."""
        value = self.laid(argument)
        return value.tensor if self.is_constant(argument) else value.to(standard(value.rank))

    def constant(self, argument: object) -> Tensor:
        """The tensor of a constant argument, computed while tracing where operators stand before it."""
        assert isinstance(argument, fx.Node), argument
        if argument.name in self.network.constants:
            return self.network.constants[argument.name]
        return frozen(lambda: call(argument, fx.node.map_arg(argument.args, self.constant), self.batch))

    def is_constant(self, argument: object) -> bool:
        """Whether an argument is a constant, or made of constants only."""
        return isinstance(argument, fx.Node) and is_constant(self.network, argument)

    def run_as_it_is(self, node: fx.Node) -> None:
        """PyTorch's own operator, on values as ATen sees them: fine where nothing is differentiated."""

        def read(argument: fx.Node) -> Any:
            return self.constant(argument) if self.is_constant(argument) else _plain(self.values[argument])

        result = call(node, fx.node.map_arg(node.args, read), self.batch)
        self.values[node] = _held(result)


def is_constant(network: Network, node: fx.Node) -> bool:
    """Whether a value is a constant, or made of constants only: an expansion to the batch, a transpose."""
    if node.op != "call_function":
        return node.name in network.constants
    sources = node.all_input_nodes
    return bool(sources) and all(is_constant(network, source) for source in sources)


def _plain(value: Any) -> Any:
    if isinstance(value, Laid):
        return value.to(tuple(range(value.rank)))
    return tuple(_plain(part) for part in value) if isinstance(value, tuple) else value


def _held(result: Any) -> Any:
    if isinstance(result, Tensor):
        return Laid.plain(result)
    return tuple(_held(part) for part in result) if isinstance(result, Iterable) else result
