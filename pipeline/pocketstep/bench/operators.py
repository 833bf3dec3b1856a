"""One operator of a LiteRT program: what it is called, what it works on, and a model of it alone."""

from __future__ import annotations

import copy
import hashlib
import math
from typing import Any

from pocketstep.export.delegation import pack_model

COPIES = 16
COPY_BYTES = 2**20
"""At most this many bytes of constants and outputs in all copies of an operator, so that they fit into a cache."""
_KEPT_CONSTANT = 4096  # bytes up to which a constant's content (a shape, a padding) tells operators apart
_FLOAT = 0  # LiteRT's number of float32
_ACTIVATIONS = {1: "relu", 2: "relu -1..1", 3: "relu6", 4: "tanh"}


class Operator:
    """A view of one operator of a model of one subgraph.

    Args:
        model: ``ModelT`` of LiteRT's schema.
        index: which operator, in the order of execution.
    """

    def __init__(self, model: Any, index: int):
        self._model, self._graph = model, model.subgraphs[0]
        self._operator = self._graph.operators[index]
        self.inputs = [int(t) for t in self._operator.inputs]
        self.outputs = [int(t) for t in self._operator.outputs]

    @property
    def kind(self) -> str:
        """LiteRT's name, ``CONV_2D``."""
        from ai_edge_litert import schema_py_generated as schema

        code = self._model.operatorCodes[self._operator.opcodeIndex]
        number = max(code.builtinCode, code.deprecatedBuiltinCode)
        names: dict[str, int] = vars(schema.BuiltinOperator)
        return next((name for name, value in names.items() if value == number), f"operator {number}")

    @property
    def shapes(self) -> str:
        """Of inputs and output, constants in brackets, and the activation where one is fused."""
        inputs = ", ".join(self._text(t) for t in self.inputs if t >= 0)
        fused = getattr(self._operator.builtinOptions, "fusedActivationFunction", 0)
        activation = f" {_ACTIVATIONS.get(fused, fused)}" if fused else ""
        return f"{inputs} → {', '.join(self._text(t) for t in self.outputs)}{activation}"

    @property
    def macs(self) -> int:
        """Multiply-accumulates, as :mod:`pocketstep.compile.cost` counts them, from LiteRT's layouts."""
        result, kind = math.prod(self._shape(self.outputs[0])), self.kind
        if kind == "CONV_2D":
            return result * math.prod(self._shape(self.inputs[1])[1:])
        if kind == "DEPTHWISE_CONV_2D":
            return result * math.prod(self._shape(self.inputs[1])[1:3])
        if kind == "FULLY_CONNECTED":
            return result * self._shape(self.inputs[1])[1]
        if kind == "BATCH_MATMUL":
            return result * self._shape(self.inputs[0])[-2 if self._operator.builtinOptions.adjX else -1]
        return 0

    @property
    def key(self) -> Any:
        """Equal for operators that take the same time: weights and variables may differ, shapes and options not."""
        options = self._operator.builtinOptions
        return (
            self._operator.opcodeIndex,
            repr(sorted(vars(options).items())) if options is not None else "",
            tuple(self._describe(t) for t in (*self.inputs, *self.outputs)),
            tuple(t == self.inputs[0] for t in self.inputs),  # x * x reads one tensor only
        )

    def alone(self) -> tuple[bytes, int]:
        """Copies of the operator side by side: variables shared and made inputs, constants kept, outputs of their own.

        Returns:
            The model's bytes, and how many copies it has.
        """
        from ai_edge_litert import schema_py_generated as schema

        involved = [t for t in dict.fromkeys(self.inputs) if t >= 0]
        kept = [t for t in involved if self._constant(t) is not None]
        size = sum(len(self._constant(t)) for t in kept) + 4 * sum(math.prod(self._shape(t)) for t in self.outputs)
        copies = max(1, min(COPIES, COPY_BYTES // max(size, 1)))
        graph = schema.SubGraphT()
        graph.tensors = [self._tensor(t, kept.index(t) + 1 if t in kept else 0) for t in involved]
        place = {t: index for index, t in enumerate(involved)}
        graph.inputs = [place[t] for t in involved if t not in kept]
        graph.operators, graph.outputs = [], []
        for _ in range(copies):
            made = list(range(len(graph.tensors), len(graph.tensors) + len(self.outputs)))
            graph.tensors += [self._tensor(t, 0) for t in self.outputs]
            twin = copy.copy(self._operator)
            twin.inputs, twin.outputs = [place.get(t, -1) for t in self.inputs], made
            graph.operators.append(twin)
            graph.outputs += made
        model = schema.ModelT()
        model.version, model.operatorCodes, model.subgraphs = self._model.version, self._model.operatorCodes, [graph]
        model.buffers = [schema.BufferT(), *(self._model.buffers[self._graph.tensors[t].buffer] for t in kept)]
        return pack_model(model), copies

    def _tensor(self, index: int, buffer: int) -> Any:
        tensor = copy.copy(self._graph.tensors[index])
        tensor.buffer = buffer
        return tensor

    def _constant(self, index: int) -> Any:
        """A tensor's constant content, bytes in an array, or None."""
        data = self._model.buffers[self._graph.tensors[index].buffer].data
        return None if data is None or len(data) == 0 else data

    def _shape(self, index: int) -> tuple[int, ...]:
        shape = self._graph.tensors[index].shape
        return () if shape is None else tuple(int(size) for size in shape)

    def _describe(self, index: int) -> Any:
        if index < 0:
            return None
        kind, data = self._graph.tensors[index].type, self._constant(index)
        if data is None:
            return self._shape(index), kind, "variable"
        same = kind == _FLOAT or len(data) > _KEPT_CONSTANT
        return self._shape(index), kind, "weights" if same else hashlib.sha256(bytes(data)).hexdigest()

    def _text(self, index: int) -> str:
        sizes = "×".join(str(size) for size in self._shape(index)) or "1"
        return sizes if self._constant(index) is None else f"[{sizes}]"
