"""LiteRT (ai-edge-litert) or its predecessor tflite-runtime, with XNNPACK; built-in operators only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pocketstep_device.bundle import Bundle
from pocketstep_device.errors import BundleError, MissingToolError
from pocketstep_device.runtimes import Array
from pocketstep_device.runtimes.loaded import Loaded
from pocketstep_device.runtimes.tflite_file import TfliteFile

Runner = Callable[..., dict[str, Array]]


def _interpreter() -> Any:
    """What makes the interpreters of one program."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        try:
            from tflite_runtime.interpreter import Interpreter as Older
        except ImportError:
            raise MissingToolError(
                "neither LiteRT nor TensorFlow Lite is installed; pip install 'pocketstep-device[litert]'"
            ) from None
        return _listing_once(Older)
    return Interpreter


def _listing_once(older: Any) -> Any:
    """tflite-runtime 2.14 loses what it lists of a file's signatures, and lists them twice for each interpreter: 14 kB.

    All interpreters of one program have the same ones.
    """

    class ListingOnce(older):  # type: ignore[misc]
        found: dict[str, Any] | None = None

        def _get_full_signature_list(self) -> dict[str, Any]:
            kind = type(self)
            if kind.found is None:
                kind.found = super()._get_full_signature_list()
            return kind.found

        def get_signature_list(self) -> dict[str, Any]:
            whole = self._get_full_signature_list()
            return {key: {side: list(names) for side, names in sides.items()} for key, sides in whole.items()}

    return ListingOnce


class LiteRtProgram:
    """A ``.tflite`` file; each signature that is in use is an interpreter of its own."""

    def __init__(self, bundle: Bundle, file: str, threads: int):
        self._make, self._name, self._threads = _interpreter(), file, threads
        self._signatures = bundle.manifest.signatures
        self._file = TfliteFile(bundle, file)
        self._loaded = Loaded(self._runner)
        try:
            self._file.check()
        except ValueError as error:
            raise BundleError(f"LiteRT cannot load {file}: {error}. Build the bundle again") from error

    def call(self, signature: str, inputs: Sequence[Array]) -> list[Array]:
        """Inputs are ``args_0``.., outputs ``output_0``.. in the converter's naming."""
        try:
            feed = {f"args_{i}": np.ascontiguousarray(a, np.float32) for i, a in enumerate(inputs)}
            is_first = signature not in self._loaded
            results = self._loaded.get(signature)(**feed)
            if is_first:  # its weights are packed now, and the pages they were read from have had their use
                self._file.forget_pages()
            return [results[f"output_{i}"] for i in range(len(results))]
        except (ValueError, RuntimeError, KeyError) as error:
            raise BundleError(
                f"LiteRT cannot run the program's '{signature}': {error}. Build the bundle again"
            ) from error

    def _runner(self, signature: str) -> Runner:
        """Its inputs must be the manifest's, before a tensor goes in."""
        interpreter: Any = self._make(**self._file.only(signature), num_threads=self._threads)
        runner: Any = interpreter.get_signature_runner(signature)
        found = {name: (tuple(d["shape"]), np.dtype(d["dtype"])) for name, d in runner.get_input_details().items()}
        specs = self._signatures[signature].inputs
        wanted = {f"args_{i}": (tuple(spec.shape), np.dtype(spec.dtype)) for i, spec in enumerate(specs)}
        if found != wanted:
            wrong = min(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
            raise ValueError(f"its {wrong} is {found.get(wrong)}, and the manifest says {wanted.get(wrong)}")
        result: Runner = runner
        return result


def load(bundle: Bundle, file: str, threads: int) -> LiteRtProgram:
    """Opens the program; see ``open_program``."""
    return LiteRtProgram(bundle, file, threads)
