"""Rival: ONNX Runtime training 1.19.2, the last release; artifacts generated offline, as its documentation says."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import measure
import numpy as np
import onnx_model
import onnxruntime
from onnxruntime import SessionOptions

for part in ("amp", "optim"):  # for training inside PyTorch: they import torch, which a device does not have
    sys.modules[f"onnxruntime.training.{part}"] = ModuleType(part)
from onnxruntime.training import artifacts  # noqa: E402
from onnxruntime.training.api import CheckpointState, Module, Optimizer  # noqa: E402

onnxruntime.set_default_logger_severity(3)


class Session(measure.Session):
    """The training and the optimiser model, and the checkpoint that they share."""

    def __init__(self, task: measure.Task, folder: Path) -> None:
        options = SessionOptions()
        options.intra_op_num_threads = task.threads
        self._names = task.trained
        self._state = CheckpointState.load_checkpoint(folder / "checkpoint")
        self._module = Module(folder / "training_model.onnx", self._state, session_options=options)
        self._optimiser = Optimizer(folder / "optimizer_model.onnx", self._module)
        self._optimiser.set_learning_rate(task.rate)
        self._module.train()

    def loss(self, images: np.ndarray, labels: np.ndarray) -> float:
        """One optimiser step; the loss before it."""
        loss = self._module(images, labels)
        self._optimiser.step()
        self._module.lazy_reset_grad()
        return float(loss)

    def parameters(self) -> dict[str, np.ndarray]:
        """The checkpoint's parameters."""
        return {name: parameter.data for name, parameter in self._state.parameters}


def build(task: measure.Task, folder: Path) -> None:
    """Generates the artifacts; the evaluation model is not needed to train.

    What is frozen stays a constant of the graph; as `frozen_params` it would be packed in every step (a tenth to a
    fifth slower, a quarter less memory with centre taps).
    """
    model = onnx_model.model(task, task.nodes, ["logits"])
    loss, optimiser = artifacts.LossType.CrossEntropyLoss, artifacts.OptimType.SGD
    artifacts.generate_artifacts(model, task.trained, loss=loss, optimizer=optimiser, artifact_directory=folder)
    (folder / "eval_model.onnx").unlink()


if __name__ == "__main__":
    notes = "plain SGD (it has no momentum); discontinued, 1.19.2 is the last release"
    measure.main(measure.Rival("onnxruntime", onnxruntime.__version__, build, Session, notes))
