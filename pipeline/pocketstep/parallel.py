"""One training process, or several that ``accelerate launch`` started (GPUs, machines)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from pocketstep_device.errors import InputError, MissingToolError

PRECISIONS = ("float32", "bfloat16", "float16")


def practical(precision: str, device: torch.device) -> str:
    """``precision``, or ``float32`` instead of ``bfloat16`` on a CPU that would emulate it: 13 times slower on AVX2."""
    if precision != "bfloat16" or device.type != "cpu":
        return precision
    native = torch._C._has_mkldnn and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return precision if native else "float32"


class Workers:
    """The processes that train one network together; usually one.

    Batch norms use each process's own part of a batch. Gradients are averaged over the processes.

    Attributes:
        rank: of this process, from 0.
        count: of processes.

    Args:
        device: the model's.
        precision: ``float32``; ``bfloat16`` (CPU and CUDA); ``float16`` with loss scaling (CUDA only).

    Raises:
        InputError: a precision that does not exist, or not there.
        MissingToolError: several processes were launched, but accelerate is not installed.
    """

    def __init__(self, device: torch.device, precision: str = "float32") -> None:
        if precision not in PRECISIONS:
            raise InputError(f"there is no precision '{precision}': choose one of {', '.join(PRECISIONS)}")
        if precision == "float16" and device.type != "cuda":
            raise InputError(f"float16 needs a CUDA device, the network is on '{device.type}': choose bfloat16")
        self.device, self._precision = device, precision
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # all batches have one shape
        self._scaler = torch.amp.GradScaler("cuda", enabled=precision == "float16")
        self._accelerator: Any = None
        self.rank, self.count = 0, 1
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            self._join()

    @property
    def first(self) -> bool:
        """Whether this process reports and saves for all."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """What to call in training: the model, or the model with synchronised gradients."""
        if self._accelerator is None:
            return model
        wrapped: nn.Module = self._accelerator.prepare_model(model)
        return wrapped

    def autocast(self) -> torch.autocast:
        """Mixed precision for a forward pass."""
        dtype = torch.float32 if self._precision == "float32" else getattr(torch, self._precision)
        return torch.autocast(self.device.type, dtype=dtype, enabled=self._precision != "float32")

    def step(self, loss: Tensor, optimiser: torch.optim.Optimizer, apart: Iterable[nn.Parameter]) -> None:
        """Gradients and one update; ``apart`` are parameters that the wrapped model does not hold."""
        optimiser.zero_grad()
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if self._accelerator is not None:
            for parameter in apart:
                if parameter.grad is not None:
                    parameter.grad = self._accelerator.reduce(parameter.grad, "mean")
        self._scaler.step(optimiser)
        self._scaler.update()

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over the processes."""
        if self._accelerator is None:
            return value
        averaged: Tensor = self._accelerator.reduce(value, "mean")
        return averaged

    @property
    def scale(self) -> dict[str, float]:
        """The loss scaling's state, for checkpoints; empty without it."""
        return dict(self._scaler.state_dict())

    @scale.setter
    def scale(self, state: dict[str, float]) -> None:
        if state:
            self._scaler.load_state_dict(state)

    def wait(self) -> None:
        """Until all processes are here."""
        if self._accelerator is not None:
            self._accelerator.wait_for_everyone()

    def _join(self) -> None:
        try:
            from accelerate import Accelerator, DistributedDataParallelKwargs
        except ImportError:
            raise MissingToolError(
                "several processes were launched, which needs accelerate: pip install 'pocketstep[parallel]'"
            ) from None
        unused = DistributedDataParallelKwargs(find_unused_parameters=True)  # hints leave the head out
        self._accelerator = Accelerator(cpu=self.device.type == "cpu", kwargs_handlers=[unused])
        self.rank, self.count = self._accelerator.process_index, self._accelerator.num_processes


def best_device() -> torch.device:
    """This process's GPU where there is one, else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
