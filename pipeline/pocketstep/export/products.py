"""Rewrites fully connected operators of a ``.tflite`` program as the products that they were before conversion.

The converter turns a product with a transposed matrix into FULLY_CONNECTED. Where that matrix is a variable, XNNPACK
does not take it; where it is a kernel that a convolution holds already, the transposed copy doubles the program.
BATCH_MATMUL is taken in both cases, and reads the kernel in the convolution's own order.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pocketstep.export.surgery import Bytes, Editor

SMALLEST_SHARED = 1024
"""Constants of fewer bytes are left alone."""


def as_products(editor: Editor) -> int:
    """Rewrites a model in place; returns how many operators."""
    kernels, count = _kernels(editor), 0
    for graph in editor.model.subgraphs:
        operators: list[Any] = []
        for operator in graph.operators:
            steps = _rewritten(editor, graph, operator, kernels)
            count += len(steps) > 1
            operators += steps
        graph.operators = operators
    return count


def _rewritten(editor: Editor, graph: Any, operator: Any, kernels: dict[bytes, int]) -> list[Any]:
    """An operator as it is, or those that stand for it: to one batch of rows, product, back."""
    if editor.code(operator) != editor.schema.BuiltinOperator.FULLY_CONNECTED or _has_more(operator):
        return [operator]
    weights = graph.tensors[operator.inputs[1]]
    outputs, inputs = (int(n) for n in weights.shape)
    data, kernel = editor.data(weights), None
    if data is not None:
        kernel = _kernel_like(data, outputs, inputs, kernels)
        if kernel is None:
            return [operator]
    rows = int(np.prod(graph.tensors[operator.inputs[0]].shape[:-1]))
    before, after = editor.tensor(graph, [1, rows, inputs]), editor.tensor(graph, [1, rows, outputs])
    steps = [editor.reshape(graph, operator.inputs[0], before)]
    if kernel is None:
        matrix = editor.tensor(graph, [1, outputs, inputs])
        steps.append(editor.reshape(graph, operator.inputs[1], matrix))
    else:
        matrix = editor.tensor(graph, [1, inputs, outputs], kernel)
    product = editor.operator(editor.schema.BuiltinOperator.BATCH_MATMUL, [before, matrix], [after])
    product.builtinOptionsType = editor.schema.BuiltinOptions.BatchMatMulOptions
    product.builtinOptions = editor.schema.BatchMatMulOptionsT()
    product.builtinOptions.adjY = kernel is None
    return [*steps, product, editor.reshape(graph, after, operator.outputs[0])]


def _has_more(operator: Any) -> bool:
    """A bias or an activation, which a plain product has not."""
    biased = len(operator.inputs) > 2 and operator.inputs[2] >= 0
    return biased or bool(operator.builtinOptions.fusedActivationFunction)


def _kernels(editor: Editor) -> dict[bytes, int]:
    """The bytes of every convolution's kernel -> its buffer."""
    found: dict[bytes, int] = {}
    for graph in editor.model.subgraphs:
        for operator in graph.operators:
            if editor.code(operator) == editor.schema.BuiltinOperator.CONV_2D:
                tensor = graph.tensors[operator.inputs[1]]
                data = editor.data(tensor)
                if data is not None and len(data) >= SMALLEST_SHARED:
                    found.setdefault(data.tobytes(), tensor.buffer)
    return found


def _kernel_like(data: Bytes, outputs: int, inputs: int, kernels: dict[bytes, int]) -> int | None:
    if len(data) < SMALLEST_SHARED or len(data) != 4 * outputs * inputs:
        return None
    turned = np.ascontiguousarray(data.view(np.float32).reshape(outputs, inputs).T)
    return kernels.get(turned.tobytes())
