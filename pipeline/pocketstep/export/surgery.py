"""Adds tensors, buffers and operators to a ``.tflite`` program that is held as objects."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
SMALLEST_DROPPED = 64


class Editor:
    """One program under the knife.

    Args:
        model: ``schema.ModelT`` as ``delegation.read_model`` gives it; changed in place.
    """

    def __init__(self, model: Any):
        from ai_edge_litert import schema_py_generated as schema

        self.model: Any = model
        self.schema: Any = schema

    def code(self, operator: Any) -> int:
        """The built-in operator's number."""
        code = self.model.operatorCodes[operator.opcodeIndex]
        return max(int(code.builtinCode), int(code.deprecatedBuiltinCode))

    def data(self, tensor: Any) -> Bytes | None:
        """A constant tensor's bytes; None for a variable."""
        data = self.model.buffers[tensor.buffer].data
        return None if data is None or len(data) == 0 else np.ascontiguousarray(data, dtype=np.uint8)

    def buffer(self, values: npt.NDArray[Any]) -> int:
        """A new buffer's index."""
        buffer = self.schema.BufferT()
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        return len(self.model.buffers) - 1

    def tensor(self, graph: Any, shape: list[int], buffer: int = 0, kind: int = 0) -> int:
        """A new tensor's index; float32 and variable unless said otherwise."""
        tensor = self.schema.TensorT()
        tensor.shape, tensor.type, tensor.buffer = np.array(shape, np.int32), kind, buffer
        tensor.name = f"added_{len(graph.tensors)}".encode()
        graph.tensors.append(tensor)
        return len(graph.tensors) - 1

    def operator(self, code: int, inputs: list[int], outputs: list[int]) -> Any:
        """A new operator, without options; not yet in any graph."""
        operator = self.schema.OperatorT()
        operator.opcodeIndex, operator.inputs, operator.outputs = self._opcode(code), inputs, outputs
        return operator

    def reshape(self, graph: Any, source: int, target: int) -> Any:
        """A new operator that gives ``source`` the shape of ``target``."""
        shape = np.array([int(n) for n in graph.tensors[target].shape], np.int32)
        wanted = self.tensor(graph, [len(shape)], self.buffer(shape), self.schema.TensorType.INT32)
        operator = self.operator(self.schema.BuiltinOperator.RESHAPE, [source, wanted], [target])
        operator.builtinOptionsType = self.schema.BuiltinOptions.ReshapeOptions
        operator.builtinOptions = self.schema.ReshapeOptionsT()
        operator.builtinOptions.newShape = shape
        return operator

    def drop_unused(self) -> None:
        """Empties the buffers that no operator reads any more."""
        used = {
            graph.tensors[index].buffer
            for graph in self.model.subgraphs
            for indices in (*(o.inputs for o in graph.operators), graph.outputs)
            for index in indices
            if index >= 0
        }
        for index, buffer in enumerate(self.model.buffers):
            if index not in used and buffer.data is not None and len(buffer.data) >= SMALLEST_DROPPED:
                buffer.data = None

    def slim(self) -> None:
        """Leaves out what no runtime reads: names and empty descriptions of tensors, and their empty buffers."""
        kept: list[Any] = [self.model.buffers[0]]
        places = {0: 0}
        for graph in self.model.subgraphs:
            for tensor in graph.tensors:
                tensor.name = tensor.shapeSignature = None
                if tensor.quantization is not None and tensor.quantization.scale is None:
                    tensor.quantization = None
                if self.data(tensor) is None:
                    tensor.buffer = 0
                elif tensor.buffer not in places:
                    places[tensor.buffer] = len(kept)
                    kept.append(self.model.buffers[tensor.buffer])
                tensor.buffer = places[tensor.buffer]
        self.model.buffers, self.model.metadata, self.model.metadataBuffer = kept, None, None

    def _opcode(self, code: int) -> int:
        for index, known in enumerate(self.model.operatorCodes):
            if max(int(known.builtinCode), int(known.deprecatedBuiltinCode)) == code:
                return index
        new = self.schema.OperatorCodeT()
        new.builtinCode, new.deprecatedBuiltinCode, new.version = code, min(code, 127), 1
        self.model.operatorCodes.append(new)
        return len(self.model.operatorCodes) - 1
