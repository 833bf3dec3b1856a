"""Statistics of the closed-form head: what observing, refreshing and forgetting feed the program with."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pocketstep_device.machine import Machine, padded
from pocketstep_device.runtimes import Array
from pocketstep_device.samples import Samples, one_hot

Values = dict[str, Array]
STATISTICS = ("count", "total", "second")


def observed(machine: Machine, values: Values, samples: Samples) -> Values:
    """The values with samples added to the statistics, their features those of the values' network.

    Args:
        machine: the program.
        values: the whole state.
        samples: any number; all of them are added.
    """
    return _added(machine, values, _features(machine, values, samples), samples.labels, 1.0)


def refreshed(machine: Machine, values: Values, samples: Samples) -> Values:
    """The values with statistics of these samples alone: what older ones saw were other features."""
    return observed(machine, {**values, **{n: np.zeros_like(values[n]) for n in STATISTICS}}, samples)


def forgotten(machine: Machine, values: Values, slot: int, samples: Samples) -> Values:
    """The values without a class.

    Sample by sample where the store still has all that were counted, so that nothing of the class is left; else its
    mean as often as it was counted: then its spread stays part of the covariance that all classes share.

    Args:
        machine, values: as in :func:`observed`.
        slot: of the class.
        samples: all stored ones of the class that are not held back.
    """
    count = float(values["count"][slot])
    if not count:
        return values
    if len(samples) == count:
        values = _added(machine, values, _features(machine, values, samples), samples.labels, -1.0)
    else:
        mean = (values["total"][slot] / count)[None]
        values = _added(machine, values, mean, np.full(1, slot), -count)
    for name in ("count", "total"):
        values[name] = values[name].copy()
        values[name][slot] = 0.0  # not a rounding error of it
    return values


def _features(machine: Machine, values: Values, samples: Samples) -> Array:
    return machine.in_batches("classify", values, {"latents": samples.latents}, "features")


def _added(machine: Machine, values: Values, features: Array, labels: npt.NDArray[np.int64], weight: float) -> Values:
    batch = machine.manifest.signatures["statistics"].batch
    rows_of = one_hot(labels, machine.manifest.task.slots)
    weights = np.full(len(labels), weight, np.float32)
    values = dict(values)
    for start in range(0, len(features), batch):
        rows = slice(start, start + batch)
        feed = {
            "features": padded(features[rows], batch),
            "labels": padded(rows_of[rows], batch),
            "label_weights": padded(weights[rows], batch),
        }
        values.update(machine.run("statistics", {**values, **feed}))
    return values
