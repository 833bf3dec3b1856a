"""ExecuTorch with XNNPACK, through its Python binding (whose wheel brings torch; nothing else here needs it)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pocketstep_device.bundle import Bundle
from pocketstep_device.errors import BundleError, MissingToolError
from pocketstep_device.runtimes import Array


def _binding() -> tuple[Any, Any]:
    """torch and the native module, which links against its libraries.

    The module's public face ``portable_lib`` also imports the whole compiler, which takes seconds.
    """
    try:
        import torch
        from executorch.extension.pybindings import _C
    except ImportError:
        raise MissingToolError("ExecuTorch is not installed; pip install 'pocketstep-device[executorch]'") from None
    return torch, _C


class ExecuTorchProgram:
    """A ``.pte`` file, mapped where it is one; each signature is a method that is loaded when it is first called.

    It stays loaded: ExecuTorch 1.5 leaves 2 to 14 kB behind each time that it loads one, which an app that learns for
    months would lose with every update.
    """

    def __init__(self, bundle: Bundle, file: str, threads: int):
        torch, binding = _binding()
        self._from_numpy: Any = torch.from_numpy
        binding._unsafe_reset_threadpool(threads)
        torch.set_num_threads(1)  # torch only copies outputs here; its own threads would spin beside ExecuTorch's
        try:
            self._program = self._open(binding, bundle, file)
        except RuntimeError as error:
            raise BundleError(f"ExecuTorch cannot load {file}: {error}. Build the bundle again") from error
        self._methods = dict[str, Any]()

    def _open(self, binding: Any, bundle: Bundle, file: str) -> Any:
        """From a path pages of constants go once they are packed; a buffer stays, because the program owns none.

        Where the bundle's signature was asked for, the very bytes that were checked: a file can be changed behind that.
        """
        checked = binding.Verification.InternalConsistency
        path = None if bundle.signed_by else bundle.file_path(file)
        if path is not None:
            return binding._load_program(str(path), program_verification=checked)
        self._content = bundle.read(file)
        return binding._load_program_from_buffer(self._content, program_verification=checked)

    def call(self, signature: str, inputs: Sequence[Array]) -> list[Array]:
        """Methods take and give tensors by position."""
        tensors = [self._from_numpy(_own(a)) for a in inputs]
        try:
            if signature not in self._methods:
                self._methods[signature] = self._program.load_method(signature)
            outputs = self._methods[signature].call(tensors, clone_outputs=False)  # the method's own memory
            return [np.array(t.numpy()) for t in outputs]
        except RuntimeError as error:
            raise BundleError(
                f"ExecuTorch cannot run the program's '{signature}': {error}. Build the bundle again"
            ) from error


def _own(array: Array) -> Array:
    array = np.ascontiguousarray(array, np.float32)
    return array if array.flags.writeable else array.copy()


def load(bundle: Bundle, file: str, threads: int) -> ExecuTorchProgram:
    """Opens the program; see ``open_program``."""
    return ExecuTorchProgram(bundle, file, threads)
