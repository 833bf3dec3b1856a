"""Networks as plain LiteRT programs, timed in turns."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pocketstep.blueprint import learning_model
from pocketstep.compile import signatures as sig
from pocketstep.compile.lower import lower
from pocketstep.data import Dataset, normalisation
from pocketstep.export import RUNTIMES
from pocketstep.export.run import Exporters
from pocketstep.request import Request
from pocketstep_device.errors import MissingToolError

RUNS = 300
"""Calls of each program that the median is of."""
_FIRST = 20


def latencies(networks: Mapping[str, nn.Module], data: Dataset, folder: Path) -> dict[str, dict[str, Any]]:
    """``litert_milliseconds`` an image and ``litert_bytes`` of each network's program.

    Medians of single images on one thread, the programs taking turns, so that what else the machine does meets all.

    Args:
        networks: each with as many outputs as it has classes.
        data: images that they take; their mean and deviation normalise.
        folder: for the programs, replaced.

    Raises:
        MissingToolError: LiteRT is not installed.
        CheckFailedError: a network cannot be exported.
    """
    shutil.rmtree(folder, ignore_errors=True)
    files = {name: _program(network, data, folder / name) for name, network in networks.items()}
    runners = {name: _runner(file) for name, file in files.items()}
    images = data.images[:1].astype(np.float32)
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    for run in range(RUNS + _FIRST):
        for name, runner in runners.items():
            began = time.perf_counter()
            runner(args_0=images)
            if run >= _FIRST:
                seconds[name].append(time.perf_counter() - began)
    return {
        name: {"litert_milliseconds": 1000 * statistics.median(found), "litert_bytes": files[name].stat().st_size}
        for name, found in seconds.items()
    }


def _program(network: nn.Module, data: Dataset, folder: Path) -> Path:
    """One signature, ``plain``: an image (1, H, W, C), pixels 0..255, to logits."""
    height, width, channels = data.images.shape[1:]
    outputs = tuple(map(str, range(_outputs(network, data))))
    request = Request(
        "plain", outputs, (height, width, channels), *normalisation(data), preset="head", pooled_cells=1, batch=1
    )
    model = learning_model(network.cpu().eval(), request, data.images[:16])
    with Exporters(["litert"]) as exporters:
        exporters.begin([lower(sig.plain(model, 1))], folder)
        exporters.finish()
    return folder / RUNTIMES["litert"]


def _outputs(network: nn.Module, data: Dataset) -> int:
    with torch.no_grad():
        image = torch.from_numpy(data.images[:1]).permute(0, 3, 1, 2).float() / 255
        return int(network.cpu().eval()(image).shape[1])


def _runner(file: Path) -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        raise MissingToolError("LiteRT is not installed; pip install 'pocketstep-device[litert]'") from None
    return Interpreter(model_path=str(file), num_threads=1).get_signature_runner("plain")
