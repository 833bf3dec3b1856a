"""LiteRT (ai-edge-litert) or its predecessor tflite-runtime, with XNNPACK; built-in operators only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pocketstep_device.bundle import Bundle
from pocketstep_device.errors import BundleError, MissingToolError
from pocketstep_device.runtimes import Array


def _interpreter() -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        try:
            from tflite_runtime.interpreter import Interpreter
        except ImportError:
            raise MissingToolError(
                "neither LiteRT nor TensorFlow Lite is installed; pip install 'pocketstep-device[litert]'"
            ) from None
    return Interpreter


class LiteRtProgram:
    """A ``.tflite`` file; runners are made when first used, so that unused signatures cost no memory."""

    def __init__(self, bundle: Bundle, file: str, threads: int):
        interpreter = _interpreter()
        self._signatures = bundle.manifest.signatures
        source = _source(bundle, file)
        try:
            self._interpreter = interpreter(**source, num_threads=threads)
        except (ValueError, RuntimeError) as error:
            raise BundleError(f"LiteRT cannot load {file}: {error}. Build the bundle again") from error
        self._runners: dict[str, Callable[..., dict[str, Array]]] = {}

    def call(self, signature: str, inputs: Sequence[Array]) -> list[Array]:
        """Inputs are ``args_0``.., outputs ``output_0``.. in the converter's naming."""
        try:
            if signature not in self._runners:
                self._runners[signature] = self._runner(signature)
            feed = {f"args_{i}": np.ascontiguousarray(a, np.float32) for i, a in enumerate(inputs)}
            results = self._runners[signature](**feed)
            return [results[f"output_{i}"] for i in range(len(results))]
        except (ValueError, RuntimeError, KeyError) as error:
            raise BundleError(
                f"LiteRT cannot run the program's '{signature}': {error}. Build the bundle again"
            ) from error

    def _runner(self, signature: str) -> Callable[..., dict[str, Array]]:
        """Its inputs must be the manifest's, before a tensor goes in."""
        runner: Any = self._interpreter.get_signature_runner(signature)
        found = {name: (tuple(d["shape"]), np.dtype(d["dtype"])) for name, d in runner.get_input_details().items()}
        specs = self._signatures[signature].inputs
        wanted = {f"args_{i}": (tuple(spec.shape), np.dtype(spec.dtype)) for i, spec in enumerate(specs)}
        if found != wanted:
            wrong = min(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
            raise ValueError(f"its {wrong} is {found.get(wrong)}, and the manifest says {wanted.get(wrong)}")
        result: Callable[..., dict[str, Array]] = runner
        return result


def _source(bundle: Bundle, file: str) -> dict[str, str | bytes]:
    """What the interpreter loads: a mapped file, which a small board can drop from its memory and read again.

    Where the bundle's signature was asked for, the very bytes that were checked: a file can be changed behind that.
    """
    path = None if bundle.signed_by else bundle.file_path(file)
    return {"model_path": str(path)} if path else {"model_content": bundle.read(file)}


def load(bundle: Bundle, file: str, threads: int) -> LiteRtProgram:
    """Opens the program; see ``open_program``."""
    return LiteRtProgram(bundle, file, threads)
