"""Stores constants of a ``.tflite`` program that are int8 multiples of a scale a filter as such.

A DEQUANTIZE in front of the convolution gives the float32 values back; XNNPACK does that once, when it packs them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pocketstep.export.surgery import Editor

LEVELS = 127
SMALLEST = 1024


def as_int8(editor: Editor) -> int:
    """Rewrites a model in place; returns the bytes that it saves.

    Only kernels that ``compile.quantised`` has rounded qualify: their values come back exactly.
    """
    builtin, saved = editor.schema.BuiltinOperator, 0
    for graph in editor.model.subgraphs:
        made: dict[int, int] = {}
        steps: list[Any] = []
        for operator in graph.operators:
            if editor.code(operator) in (builtin.CONV_2D, builtin.DEPTHWISE_CONV_2D):
                axis = 0 if editor.code(operator) == builtin.CONV_2D else 3
                index = int(operator.inputs[1])
                if index not in made and (codes := _codes(editor, graph.tensors[index], axis)) is not None:
                    made[index], step = _dequantised(editor, graph, index, *codes, axis)
                    steps.append(step)
                    saved += 3 * codes[0].size
                operator.inputs = [operator.inputs[0], made.get(index, index), *operator.inputs[2:]]
        graph.operators = [*steps, *graph.operators]
    return saved


def _codes(editor: Editor, tensor: Any, axis: int) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]] | None:
    data = editor.data(tensor)
    if data is None or len(data) < SMALLEST or tensor.type != editor.schema.TensorType.FLOAT32:
        return None
    values = data.view(np.float32).reshape([int(n) for n in tensor.shape])
    others = tuple(n for n in range(values.ndim) if n != axis)
    scale = np.maximum(np.abs(values).max(others, keepdims=True) / np.float32(LEVELS), np.finfo(np.float32).tiny)
    codes = np.round(values / scale)
    if not np.allclose(codes * scale, values, rtol=1e-6, atol=0):
        return None
    return codes.astype(np.int8), scale.reshape(-1).astype(np.float32)


def _dequantised(
    editor: Editor, graph: Any, index: int, codes: npt.NDArray[np.int8], scale: npt.NDArray[np.float32], axis: int
) -> tuple[int, Any]:
    schema, shape = editor.schema, [int(n) for n in graph.tensors[index].shape]
    source = editor.tensor(graph, shape, editor.buffer(codes), schema.TensorType.INT8)
    parameters = schema.QuantizationParametersT()
    parameters.scale, parameters.zeroPoint = scale, np.zeros(len(scale), np.int64)
    parameters.quantizedDimension = axis
    graph.tensors[source].quantization = parameters
    target = editor.tensor(graph, shape)
    operator = editor.operator(schema.BuiltinOperator.DEQUANTIZE, [source], [target])
    operator.builtinOptionsType = schema.BuiltinOptions.DequantizeOptions
    operator.builtinOptions = schema.DequantizeOptionsT()
    return target, operator
