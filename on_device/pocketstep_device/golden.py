"""Replays the golden trace: what PyTorch's autograd gave, call by call, against what this runtime gives.

``golden.safetensors`` holds ``<call>.in.<name>`` and ``<call>.out.<name>``; metadata ``calls`` is the JSON list of
signatures in order. Values persist: a call takes its own inputs, else the last value of that name, so the state of
consecutive steps is the runtime's own and errors may add up.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pocketstep_device.bundle import Bundle
from pocketstep_device.errors import BundleError
from pocketstep_device.machine import Machine
from pocketstep_device.runtimes import Array
from pocketstep_device.shipped import STATE_FILE
from pocketstep_device.tensors import parse_json

GOLDEN_FILE = "golden.safetensors"
SAMPLE = 4096
"""Largest number of values that a trace keeps of one output."""
TOLERANCE = 1e-4


@dataclass(frozen=True)
class CallReport:
    """One call of the trace: the largest relative error of each output, and seconds."""

    index: int
    signature: str
    errors: dict[str, float]
    seconds: float

    @property
    def worst(self) -> float:
        """The largest of the errors."""
        return max(self.errors.values())


@dataclass(frozen=True)
class SignatureReport:
    """All calls of one signature: the largest relative error, how many, median milliseconds."""

    worst: float
    calls: int
    median_ms: float


def by_signature(calls: Sequence[CallReport]) -> dict[str, SignatureReport]:
    """Calls gathered by signature, in the order of their first call."""
    grouped: dict[str, list[CallReport]] = {}
    for call in calls:
        grouped.setdefault(call.signature, []).append(call)
    return {
        name: SignatureReport(
            max(call.worst for call in own), len(own), statistics.median(call.seconds for call in own) * 1e3
        )
        for name, own in grouped.items()
    }


def relative_error(value: npt.NDArray[np.generic], expected: npt.NDArray[np.generic]) -> float:
    """max |value - expected| / max |expected|; infinite where a value is not finite."""
    if not np.isfinite(value).all():
        return float("inf")
    scale = float(np.abs(expected).max(initial=0.0))
    difference = float(np.abs(value.astype(np.float64) - expected.astype(np.float64)).max(initial=0.0))
    return difference / scale if scale > 0 else difference


def sample(value: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """What a trace keeps of an output: all of it, or evenly spaced values, (n,), of one larger than ``SAMPLE``."""
    step = -(-value.size // SAMPLE)
    return value if step <= 1 else np.ascontiguousarray(value.reshape(-1)[::step])


def replay(bundle: Bundle, machine: Machine, values: dict[str, Array] | None = None) -> list[CallReport]:
    """Every call of the trace, in order; it begins with the bundle's state.

    Args:
        bundle: the bundle.
        machine: its program.
        values: filled with all inputs and outputs as the last calls left them, for who wants to call on.

    Raises:
        BundleError: the bundle has no trace, or it does not fit the manifest.
    """
    tensors, metadata = bundle.tensors(GOLDEN_FILE)
    calls = parse_json(metadata.get("calls", "").encode(), "the golden trace's list of calls", BundleError)
    state, _ = bundle.tensors(STATE_FILE)
    values = {} if values is None else values
    values.update({name: value.astype(np.float32) for name, value in state.items()})
    reports: list[CallReport] = []
    if not isinstance(calls, list) or not calls:
        raise BundleError("the golden trace lists no calls; build the bundle again")
    for index, signature in enumerate(calls):
        if signature not in bundle.manifest.signatures:
            raise BundleError(
                f"the golden trace calls '{signature}', which the manifest does not know; build the bundle again"
            )
        described = bundle.manifest.signatures[signature]
        for spec in described.inputs:
            if (name := f"{index}.in.{spec.name}") in tensors:
                values[spec.name] = tensors[name].astype(np.float32)
        start = time.perf_counter()
        outputs = machine.run(signature, values)
        seconds = time.perf_counter() - start
        expected = {n: tensors[key] for n in outputs if (key := f"{index}.out.{n}") in tensors}
        for name, value in expected.items():
            if value.shape != sample(outputs[name]).shape:
                raise BundleError(
                    f"the golden trace's '{name}' of call {index} has another shape; build the bundle again"
                )
        errors = {name: relative_error(sample(outputs[name]), value) for name, value in expected.items()}
        if not errors:
            raise BundleError(f"the golden trace expects nothing of call {index} ({signature}); build the bundle again")
        values.update(outputs)
        reports.append(CallReport(index, signature, errors, seconds))
    return reports
