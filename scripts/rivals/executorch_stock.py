"""Rival: ExecuTorch's own training API: the joint graph of forward and backward on portable kernels."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import measure
import networks
import numpy as np
import torch
import torch.nn.functional as F
from executorch.exir import EdgeCompileConfig, to_edge
from executorch.extension.training import _load_for_executorch_for_training, get_sgd_optimizer
from torch import Tensor, nn
from torch.export.experimental import _export_forward_backward

MOMENTUM, DAMPENING, DECAY, NESTEROV = 0.9, 0.0, 0.0, False


class WithLoss(nn.Module):
    """The network and its loss, which is what the API exports."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and class numbers."""
        logits = self.network(images)
        return F.cross_entropy(logits, labels), logits.detach().argmax(1)


class Session(measure.Session):
    """The training module; its optimiser needs gradients to exist, so it is made in the first step."""

    def __init__(self, task: measure.Task, folder: Path) -> None:
        self._rate = task.rate
        self._module = _load_for_executorch_for_training(str(folder / "step.pte"))
        self._optimiser: Any = None

    def loss(self, images: np.ndarray, labels: np.ndarray) -> float:
        """One optimiser step; the loss before it."""
        inputs = (torch.from_numpy(images), torch.from_numpy(labels))
        loss = self._module.forward_backward("forward", inputs)[0].item()
        if self._optimiser is None:
            parameters = self._module.named_parameters()
            self._optimiser = get_sgd_optimizer(parameters, self._rate, MOMENTUM, DAMPENING, DECAY, NESTEROV)
        self._optimiser.step(self._module.named_gradients())
        return float(loss)

    def parameters(self) -> dict[str, np.ndarray]:
        """The trained parameters."""
        named = self._module.named_parameters()
        return {name.removeprefix("network."): value.numpy() for name, value in named.items()}


def build(task: measure.Task, folder: Path) -> None:
    """Exports the joint graph; the stock API can use no delegate."""
    network, _ = networks.planned(task.network, task.plan)
    images, labels = (torch.from_numpy(value) for value in task.batch_of_images())
    exported = torch.export.export(WithLoss(network), (images, labels), strict=True)
    joint = _export_forward_backward(exported)
    program = to_edge(joint, compile_config=EdgeCompileConfig(_check_ir_validity=False)).to_executorch()
    (folder / "step.pte").write_bytes(program.buffer)


if __name__ == "__main__":
    notes = "SGD with momentum; portable kernels, threads as it chooses; few steps measured"
    measure.main(
        measure.Rival("executorch-stock", version("executorch"), build, Session, notes, warm_up=2, networks=("small",))
    )
