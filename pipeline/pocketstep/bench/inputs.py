"""What signatures are fed while they are measured: the golden trace's first call of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pocketstep_device.bundle import Bundle
from pocketstep_device.errors import BundleError
from pocketstep_device.golden import GOLDEN_FILE, relative_error, sample
from pocketstep_device.machine import Machine
from pocketstep_device.runtimes import Array
from pocketstep_device.shipped import STATE_FILE
from pocketstep_device.tensors import parse_json


@dataclass(frozen=True)
class Call:
    """One call: what went in, and the largest relative error of what came out against PyTorch's autograd."""

    inputs: dict[str, Array]
    error: float


def first_calls(bundle: Bundle, machine: Machine) -> dict[str, Call]:
    """The first call of every signature: the trace is replayed as far as that takes.

    Values persist from call to call: a call takes its own inputs, else the last value of that name; it begins with
    the bundle's state.

    Raises:
        BundleError: the bundle has no trace, or the trace lacks a signature or an input.
    """
    tensors, metadata = bundle.tensors(GOLDEN_FILE)
    calls = parse_json(metadata.get("calls", "").encode(), "the golden trace's list of calls", BundleError)
    state, _ = bundle.tensors(STATE_FILE)
    values: dict[str, Array] = {name: value.astype(np.float32) for name, value in state.items()}
    found: dict[str, Call] = {}
    for index, name in enumerate(calls if isinstance(calls, list) else []):
        signature = bundle.manifest.signatures.get(name) if isinstance(name, str) else None
        if signature is None:
            raise BundleError(
                f"the golden trace calls {name!r}, which the manifest does not know; build the bundle again"
            )
        given = {spec.name: f"{index}.in.{spec.name}" for spec in signature.inputs}
        values.update({n: tensors[key].astype(np.float32) for n, key in given.items() if key in tensors})
        if missing := [n for n in given if n not in values]:
            raise BundleError(f"the golden trace has no '{missing[0]}' for '{name}'; build the bundle again")
        outputs = machine.run(name, values)
        if name not in found:
            expected = {n: tensors[key] for n in outputs if (key := f"{index}.out.{n}") in tensors}
            error = max((_error(outputs[n], value) for n, value in expected.items()), default=0.0)
            found[name] = Call({n: values[n] for n in given}, error)
        if len(found) == len(bundle.manifest.signatures):
            return found
        values.update(outputs)
    lacking = [name for name in bundle.manifest.signatures if name not in found]
    raise BundleError(f"the golden trace never calls '{lacking[0]}'; build the bundle again")


def _error(output: Array, expected: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> float:
    """Of all of an output, or of the values of it that the trace keeps."""
    value = output if output.shape == expected.shape else sample(output)
    if value.shape != expected.shape:
        raise BundleError("the golden trace expects another shape than the program gives; build the bundle again")
    return relative_error(value, expected)
