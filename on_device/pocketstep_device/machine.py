"""Runs signatures by the names of the manifest, a batch at a time; the only place that pads."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from pocketstep_device.budget import resident_mb
from pocketstep_device.bundle import Bundle
from pocketstep_device.contract import check_contract
from pocketstep_device.errors import BundleError
from pocketstep_device.runtimes import Array, Program, open_program


class Machine:
    """A bundle's program on a runtime.

    Args:
        bundle: opened and checked.
        runtime: see ``open_program``.
        threads: CPU threads.

    Raises:
        BundleError: its signatures are not those that a learner calls.
    """

    def __init__(self, bundle: Bundle, runtime: str, threads: int):
        self.manifest, self.runtime = bundle.manifest, runtime
        self._bundle, self._threads = bundle, threads
        check_contract(bundle.manifest)
        self._idle = resident_mb()
        self.program: Program = open_program(bundle, runtime, threads)

    @property
    def taken_mb(self) -> float:
        """Resident memory that this process took since it opened the program, MiB (Linux; 0 elsewhere)."""
        return max(0.0, resident_mb() - self._idle)

    def with_threads(self, threads: int | None) -> Machine:
        """The same program with another number of threads, opened once more where it differs; None for these."""
        return self if threads in (None, self._threads) else Machine(self._bundle, self.runtime, threads or 1)

    def run(self, signature: str, values: Mapping[str, Array]) -> dict[str, Array]:
        """One call. Missing or wrongly shaped inputs mean a bundle that does not fit its own manifest.

        Raises:
            BundleError: an input is missing or has another shape than the manifest's.
        """
        described = self.manifest.signatures[signature]
        for spec in described.inputs:
            found = values[spec.name].shape if spec.name in values else None
            if found != tuple(spec.shape):
                raise BundleError(
                    f"signature '{signature}' wants '{spec.name}' of shape {tuple(spec.shape)}, there is {found}; "
                    "the state does not fit this bundle, or the bundle was built wrongly"
                )
        outputs = self.program.call(signature, [values[spec.name] for spec in described.inputs])
        if [o.shape for o in outputs] != [tuple(spec.shape) for spec in described.outputs]:
            raise BundleError(f"the program's '{signature}' gives other shapes than the manifest says; build it again")
        return {spec.name: array for spec, array in zip(described.outputs, outputs, strict=True)}

    def in_batches(
        self,
        signature: str,
        values: Mapping[str, Array],
        batched: Mapping[str, npt.NDArray[np.generic]],
        result: str,
        rows: npt.NDArray[np.int64] | None = None,
    ) -> Array:
        """One result of a signature over any number of rows, (N, ...).

        Args:
            signature: ``encode`` or ``classify``.
            values: inputs that are the same for every batch.
            batched: inputs with as many rows; cut into batches, the last one padded with zeros.
            result: the output to keep.
            rows: which ones, (N,); None for all.
        """
        described = self.manifest.signatures[signature]
        chosen = np.arange(len(next(iter(batched.values())))) if rows is None else rows
        parts: list[Array] = []
        for start in range(0, len(chosen), described.batch):
            part = chosen[start : start + described.batch]
            feed = {name: padded(array[part], described.batch) for name, array in batched.items()}
            parts.append(self.run(signature, {**values, **feed})[result][: len(part)])
        shape = next(output.shape for output in described.outputs if output.name == result)
        return np.concatenate(parts) if parts else np.zeros((0, *shape[1:]), np.float32)


def padded(rows: npt.NDArray[np.generic], batch: int) -> Array:
    """(n, ...) as float32 with zero rows behind, (batch, ...)."""
    result = np.zeros((batch, *rows.shape[1:]), np.float32)
    result[: len(rows)] = rows
    return result
