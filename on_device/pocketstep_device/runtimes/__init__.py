"""One small interface to every runtime: positional float32 arrays in, arrays out, by signature name."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pocketstep_device.bundle import Bundle
from pocketstep_device.errors import InputError

Array = npt.NDArray[np.float32]
MODULES = {
    "litert": f"{__name__}.litert",
    "tflite": f"{__name__}.litert",
    "executorch": f"{__name__}.executorch",
}
"""Runtime's name -> module that has ``load(bundle, file, threads) -> Program``."""


class Program(Protocol):
    """A loaded program file."""

    def call(self, signature: str, inputs: Sequence[Array]) -> list[Array]:
        """Runs one signature; shapes are the manifest's."""
        ...


def open_program(bundle: Bundle, runtime: str, threads: int) -> Program:
    """Loads the bundle's program for a runtime.

    Args:
        bundle: an opened bundle, its hashes checked.
        runtime: ``litert`` (LiteRT or TensorFlow Lite, whichever is installed) or ``executorch``.
        threads: CPU threads.

    Raises:
        InputError: unknown runtime, or the bundle has no program for it.
        MissingToolError: the runtime is not installed.
    """
    if runtime not in MODULES:
        raise InputError(f"unknown runtime '{runtime}'; choose from {', '.join(sorted(MODULES))}")
    if threads < 1:
        raise InputError(f"{threads} threads make no sense; give 1 or more")
    key = "litert" if runtime == "tflite" else runtime
    programs = bundle.manifest.runtimes
    if key not in programs:
        raise InputError(
            f"this bundle has no program for {runtime}, only for {', '.join(programs)}; choose one of these or "
            f"build it again with --runtime {key}"
        )
    module = import_module(MODULES[runtime])
    program: Program = module.load(bundle, programs[key].file, threads)
    return program
