"""Rival: PyTorch eager on the desktop, autograd and SGD with momentum."""

from __future__ import annotations

from pathlib import Path

import measure
import networks
import numpy as np
import torch
import torch.nn.functional as F


class Session(measure.Session):
    """A module and its optimiser."""

    def __init__(self, task: measure.Task, folder: Path) -> None:
        torch.set_num_threads(task.threads)
        self._net, trained = networks.planned(task.network, task.plan)
        self._net.load_state_dict(torch.load(folder / "weights.pt"))
        parameters = dict(self._net.named_parameters())
        self._optimiser = torch.optim.SGD([parameters[name] for name in trained], task.rate, momentum=0.9)

    def loss(self, images: np.ndarray, labels: np.ndarray) -> float:
        """One optimiser step; the loss before it."""
        self._optimiser.zero_grad()
        loss = F.cross_entropy(self._net(torch.from_numpy(images)), torch.from_numpy(labels))
        loss.backward()
        self._optimiser.step()
        return loss.item()

    def parameters(self) -> dict[str, np.ndarray]:
        """Every parameter."""
        return {name: value.detach().numpy() for name, value in self._net.named_parameters()}


def build(task: measure.Task, folder: Path) -> None:
    """Writes the weights; the program is Python."""
    net, _ = networks.planned(task.network, task.plan)
    torch.save(net.state_dict(), folder / "weights.pt")


if __name__ == "__main__":
    notes = "desktop only; SGD with momentum; program: the weights, without PyTorch and Python code"
    measure.main(measure.Rival("pytorch", torch.__version__.split("+")[0], build, Session, notes))
