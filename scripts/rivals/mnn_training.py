"""Rival: MNN's training, as its examples for transfer learning do it.

What lies before the first trained parameter is a converted inference module; the rest is written in MNN's Python API,
and its parameters are a second file.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import measure
import MNN
import MNN.expr as F
import numpy as np
from MNN import nn

RAW = F._F  # without the wrappers that cast float to float: a cast has no gradient
OPERATORS = {"relu": F.relu, "relu6": F.relu6}
MOMENTUM, DECAY = 0.9, 0.0
LOWEST = -1e9
CONVERTER = Path(sys.executable).with_name("mnnconvert")


class Network(nn.Module):
    """The trained part, written anew by every call to `forward`."""

    def __init__(self, task: measure.Task, parameters: dict[str, Any]) -> None:
        super().__init__()
        self._nodes = split(task)[1]
        self._values = parameters
        for name in task.trained:
            setattr(self, name, parameters[name])

    def forward(self, features: dict[str, Any]) -> Any:
        """What the frozen part gave -> class probabilities."""
        tensors = dict(features)
        for entry in self._nodes:
            tensors[entry["output"]] = self._node(entry, [tensors[name] for name in entry["inputs"]])
        return F.softmax(tensors["logits"], 1)

    def _node(self, entry: dict[str, Any], inputs: list[Any]) -> Any:
        match entry["op"]:
            case "conv":
                return self._conv(entry, inputs[0])
            case "linear":
                rows = RAW.reshape(F.convert(inputs[0], F.NCHW), [inputs[0].shape[0], -1], F.NCHW)
                return RAW.matmul(rows, self._values[entry["weight"]], False, True) + self._values[entry["bias"]]
            case "max_pool":
                kernel, stride = [entry["kernel"]] * 2, [entry["stride"]] * 2
                return F.max_pool(_padded(inputs[0], entry["padding"]), kernel, stride, F.Padding_Mode.VALID, [0, 0])
            case "mean":
                return RAW.reduce_mean(F.convert(inputs[0], F.NCHW), [2, 3], False)
            case "add":
                return inputs[0] + inputs[1]
            case op:
                return OPERATORS[op](inputs[0])

    def _conv(self, entry: dict[str, Any], x: Any) -> Any:
        weight, bias = self._values[entry["weight"]], self._values[_bias(entry)]
        stride, padding = [entry["stride"]] * 2, [entry["padding"]] * 2
        return F.conv2d(x, weight, bias, stride, padding, [1, 1], entry["groups"], F.Padding_Mode.CAFFE)


class Session(measure.Session):
    """The frozen module, the trained one and its optimiser."""

    def __init__(self, task: measure.Task, folder: Path) -> None:
        F.lazy_eval(True)  # else every expression becomes a value at once, and nothing is left to differentiate
        F.set_thread_number(task.threads)
        self._values = F.load_as_dict(str(folder / "parameters.mnn"))
        for name, value in self._values.items():
            value.fix_as_trainable() if name in task.trained else value.fix_as_const()
        self._classes = task.graph["classes"]
        self._crossing = split(task)[2]
        path = str(folder / "frozen.mnn")
        self._frozen = Path(path).exists() and nn.load_module_from_file(
            path, ["images"], self._crossing, thread_num=task.threads
        )
        self._network = Network(task, self._values)
        self._network.train(True)
        self._optimiser = MNN.optim.SGD(self._network, task.rate, MOMENTUM, DECAY)

    def loss(self, images: np.ndarray, labels: np.ndarray) -> float:
        """One optimiser step; reading the loss computes the forward pass once more."""
        loss = self._loss(images, labels)
        value = float(loss.read())
        self._optimiser.step(loss)
        return value

    def step(self, images: np.ndarray, labels: np.ndarray) -> None:
        """One optimiser step."""
        self._optimiser.step(self._loss(images, labels))

    def parameters(self) -> dict[str, np.ndarray]:
        """What the trained part has; the frozen part is constant."""
        return {name: value.read() for name, value in self._values.items() if not name.startswith("zero.")}

    def _loss(self, images: np.ndarray, labels: np.ndarray) -> Any:
        one_hot = np.eye(self._classes, dtype=np.float32)[labels]
        x, y = (F.const(value, value.shape, F.NCHW) for value in (images, one_hot))
        features = {"images": F.convert(x, F.NC4HW4)}
        if self._frozen:
            crossing = [F.convert(value, F.NC4HW4) for value in self._frozen.forward([x])]
            features.update(zip(self._crossing, crossing, strict=True))
        return nn.loss.cross_entropy(self._network.forward(features), y)


def split(task: measure.Task) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[str]]:
    """Nodes with nothing trained in or before them, the other nodes, and the tensors that cross."""
    frozen, trained, known = [], [], {"images"}
    for entry in task.nodes:
        if known.issuperset(entry["inputs"]) and not {entry.get("weight"), entry.get("bias")} & set(task.trained):
            known.add(entry["output"])
            frozen.append(entry)
        else:
            trained.append(entry)
    needed = {name for entry in trained for name in entry["inputs"]}
    return frozen, trained, [entry["output"] for entry in frozen if entry["output"] in needed]


def build(task: measure.Task, folder: Path) -> None:
    """Converts the frozen part from ONNX, writes the parameters of the other."""
    import onnx
    import onnx_model

    frozen, trained, crossing = split(task)
    if frozen:
        source = folder / "frozen.onnx"
        onnx.save(onnx_model.model(task, frozen, crossing), source)
        files = ["--modelFile", source, "--MNNModel", folder / "frozen.mnn"]
        subprocess.run([CONVERTER, "-f", "ONNX", *files, "--bizCode", "-"], check=True, stdout=sys.stderr)
        source.unlink()
    weights, values = task.weights(), {}
    for entry in trained:
        if entry.get("weight"):
            values[entry["weight"]] = weights[entry["weight"]]
            values[_bias(entry)] = weights.get(_bias(entry), np.zeros(len(weights[entry["weight"]]), np.float32))
    F.save([_variable(name, value) for name, value in values.items()], str(folder / "parameters.mnn"))


def _bias(entry: dict[str, Any]) -> str:
    """Name of a convolution's bias, which MNN always has."""
    return entry["bias"] or f"zero.{entry['weight']}"


def _padded(x: Any, size: int) -> Any:
    """Padding for a maximum; MNN's own in pooling rounds sizes up, and its gradient is off by the padding."""
    x = F.convert(x, F.NCHW)
    for axis in (2, 3):
        shape = [size if number == axis else length for number, length in enumerate(x.shape)]
        edge = F.const(np.full(shape, LOWEST, np.float32), shape, F.NCHW)
        x = RAW.concat([edge, x, edge], axis)
    return F.convert(x, F.NC4HW4)


def _variable(name: str, value: np.ndarray) -> Any:
    variable = F.const(np.ascontiguousarray(value), value.shape, F.NCHW)
    variable.name = name
    return variable


if __name__ == "__main__":
    notes = "SGD with momentum; program: without the Python or C++ code that is the trained part"
    measure.main(measure.Rival("mnn", MNN.version(), build, Session, notes))
