"""A part of the prepared graph as an ONNX model; for the rivals that read ONNX."""

from __future__ import annotations

from typing import Any

import measure
import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

OPSET, IR_VERSION = 15, 8  # what ONNX Runtime 1.19 has gradients for
OPERATORS = {"relu": "Relu", "add": "Add", "mean": "GlobalAveragePool"}


def model(task: measure.Task, entries: list[dict[str, Any]], outputs: list[str]) -> onnx.ModelProto:
    """Nodes of the graph, from the images to some tensors.

    Args:
        task: has weights and the images' shape.
        entries: the nodes, in order (see prepare.py).
        outputs: names of the tensors that the model gives.
    """
    images, _ = task.batch_of_images()
    weights = task.weights()
    used = {entry[key] for entry in entries for key in ("weight", "bias") if entry.get(key)}
    constants = {name: weights[name] for name in sorted(used)}
    if any(entry["op"] == "relu6" for entry in entries):
        constants["six"] = np.asarray(6, np.float32)
    graph = helper.make_graph(
        [node for entry in entries for node in _nodes(entry, weights)], task.network,
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, images.shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    return onnx.shape_inference.infer_shapes(proto)


def _nodes(entry: dict[str, Any], weights: dict[str, np.ndarray]) -> list[NodeProto]:
    """One entry of the graph as ONNX operators."""
    inputs, output, op = entry["inputs"], entry["output"], entry["op"]
    if op == "conv":
        stride, padding, kernel = entry["stride"], entry["padding"], weights[entry["weight"]].shape[2:]
        names = [*inputs, entry["weight"], *([entry["bias"]] if entry["bias"] else [])]
        sizes = {"strides": [stride] * 2, "pads": [padding] * 4, "group": entry["groups"], "kernel_shape": kernel}
        return [helper.make_node("Conv", names, [output], **sizes)]
    if op == "max_pool":
        sizes = {"strides": [entry["stride"]] * 2, "kernel_shape": [entry["kernel"]] * 2}
        return [helper.make_node("MaxPool", inputs, [output], pads=[entry["padding"]] * 4, **sizes)]
    if op == "relu6":  # Clip has no gradient here
        middle = f"{output}.relu"
        return [helper.make_node("Relu", inputs, [middle]), helper.make_node("Min", [middle, "six"], [output])]
    if op == "linear":
        flat = f"{output}.flat"
        gemm = helper.make_node("Gemm", [flat, entry["weight"], entry["bias"]], [output], transB=1)
        return [helper.make_node("Flatten", inputs, [flat]), gemm]
    return [helper.make_node(OPERATORS[op], inputs, [output])]
