"""Rival: TensorFlow Lite with the Flex library: a tf.function with GradientTape, resource variables, SELECT_TF_OPS."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import measure
import numpy as np
import tensorflow as tf

Interpreter = tf.lite.Interpreter  # resolved here, as TensorFlow imports lazily: idle memory is without a model only
MOMENTUM = 0.9


class Session(measure.Session):
    """An interpreter of TensorFlow's wheel, which links Flex."""

    def __init__(self, task: measure.Task, folder: Path) -> None:
        self._interpreter = Interpreter(str(folder / "step.tflite"), num_threads=task.threads)
        self._interpreter.get_signature_runner("initialise")()
        self._step = self._interpreter.get_signature_runner("step")

    def loss(self, images: np.ndarray, labels: np.ndarray) -> float:
        """One optimiser step; the loss before it."""
        return float(self._step(images=images.transpose(0, 2, 3, 1), labels=labels)["loss"])

    def parameters(self) -> dict[str, np.ndarray]:
        """The trained parameters; what is frozen is a constant of the program."""
        return dict(self._interpreter.get_signature_runner("save")())


class Network(tf.Module):
    """The network in NHWC, trained parameters as variables, and a step of SGD with momentum."""

    def __init__(self, task: measure.Task) -> None:
        super().__init__()
        self._task = task
        self._values: dict[str, Any] = {name: _layout(value) for name, value in task.weights().items()}
        for entry in task.nodes:
            if entry.get("groups", 1) > 1:  # HWIO -> HWC1, TensorFlow's depthwise layout
                self._values[entry["weight"]] = self._values[entry["weight"]].transpose(0, 1, 3, 2)
        self._initial = {name: self._values[name] for name in task.trained}
        self.trained = {name: tf.Variable(value) for name, value in self._initial.items()}
        self.momentum = {name: tf.Variable(tf.zeros(value.shape)) for name, value in self._initial.items()}
        self._values.update(self.trained)

    def initialise(self) -> dict[str, Any]:
        """Gives the variables their values, which a converted program's variables do not have by themselves."""
        for name, value in self._initial.items():
            self.trained[name].assign(value)
            self.momentum[name].assign(0.0 * self.trained[name])  # zeros would be stored
        return {"done": tf.constant(1)}

    def save(self) -> dict[str, Any]:
        """The trained parameters."""
        return {name: variable.read_value() for name, variable in self.trained.items()}

    def step(self, images: Any, labels: Any) -> dict[str, Any]:
        """Loss before the step."""
        with tf.GradientTape() as tape:
            each = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, self._forward(images))
            loss = tf.reduce_mean(each)
        names = list(self.trained)
        gradients = tape.gradient(loss, [self.trained[n] for n in names])
        for name, gradient in zip(names, gradients, strict=True):
            velocity = MOMENTUM * self.momentum[name] + gradient
            self.momentum[name].assign(velocity)
            self.trained[name].assign_sub(self._task.rate * velocity)
        return {"loss": loss}

    def _forward(self, images: Any) -> Any:
        tensors = {"images": images}
        for entry in self._task.nodes:
            tensors[entry["output"]] = self._node(entry, [tensors[name] for name in entry["inputs"]])
        return tensors["logits"]

    def _node(self, entry: dict[str, Any], inputs: list[Any]) -> Any:
        match entry["op"]:
            case "conv":
                return self._conv(entry, inputs[0])
            case "linear":
                return inputs[0] @ self._values[entry["weight"]] + self._values[entry["bias"]]
            case "max_pool":
                padded = tf.pad(inputs[0], _padding(entry["padding"]), constant_values=np.float32(-1e9))
                return tf.nn.max_pool2d(padded, entry["kernel"], entry["stride"], "VALID")
            case "mean":
                return tf.reduce_mean(inputs[0], (1, 2))
            case "add":
                return inputs[0] + inputs[1]
            case op:
                return {"relu": tf.nn.relu, "relu6": tf.nn.relu6}[op](inputs[0])

    def _conv(self, entry: dict[str, Any], x: Any) -> Any:
        kernel, stride, padding = self._values[entry["weight"]], entry["stride"], entry["padding"]
        if entry["groups"] > 1:
            x = tf.pad(x, _padding(padding)) if padding else x
            y = tf.nn.depthwise_conv2d(x, kernel, [1, stride, stride, 1], "VALID")
        elif padding and stride == 1:
            y = tf.nn.conv2d(x, kernel, 1, "SAME")
        else:
            y = tf.nn.conv2d(tf.pad(x, _padding(padding)) if padding else x, kernel, stride, "VALID")
        return y + self._values[entry["bias"]] if entry["bias"] else y


def build(task: measure.Task, folder: Path) -> None:
    """Converts the step, the initial values and the reading back."""
    images, labels = task.batch_of_images()
    network = Network(task)
    batch, channels, height, width = images.shape
    pixels = tf.TensorSpec((batch, height, width, channels), name="images")
    signatures = {
        "step": tf.function(network.step, input_signature=[pixels, tf.TensorSpec(labels.shape, tf.int64, "labels")]),
        "initialise": tf.function(network.initialise, input_signature=[]),
        "save": tf.function(network.save, input_signature=[]),
    }
    tf.saved_model.save(network, str(folder / "saved"), {k: f.get_concrete_function() for k, f in signatures.items()})
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "saved"), list(signatures))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
    converter.experimental_enable_resource_variables = True
    (folder / "step.tflite").write_bytes(converter.convert())
    tf.io.gfile.rmtree(str(folder / "saved"))


def _layout(value: np.ndarray) -> np.ndarray:
    """PyTorch's layout -> TensorFlow's: OIHW -> HWIO, (O, I) -> (I, O)."""
    return value.transpose({4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[value.ndim])


def _padding(size: int) -> list[list[int]]:
    return [[0, 0], [size, size], [size, size], [0, 0]]


if __name__ == "__main__":
    notes = "SGD with momentum; program needs the Flex library, which is not counted"
    measure.main(measure.Rival("tflite-flex", tf.__version__, build, Session, notes))
