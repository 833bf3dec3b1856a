"""Trains a small network and writes its weights; started once alone and once by ``accelerate launch``."""

from __future__ import annotations

import os
import sys

import numpy as np
import torch
from torch import nn

from pocketstep.data import Dataset
from pocketstep.training import fit

torch.manual_seed(0)
torch.set_num_threads(1)
rng = np.random.default_rng(0)
dataset = Dataset(rng.integers(0, 256, (64, 6, 6, 1), dtype=np.uint8), np.arange(64) % 2, ("a", "b"))
network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
fit(
    network, dataset, epochs=2, batch=16, learning_rate=0.05, seed=0, mean=(0.5,), std=(0.25,), augment=True, shift=1,
)  # fmt: skip
if os.environ.get("RANK", "0") == "0":
    with open(sys.argv[1], "wb") as file:  # noqa: PTH123
        np.save(file, torch.cat([p.detach().flatten() for p in network.parameters()]).numpy())
