"""Statistics of the closed-form head: what observing, refreshing and forgetting feed the program with."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pocketstep_device.machine import Machine, padded
from pocketstep_device.runtimes import Array
from pocketstep_device.samples import Samples, one_hot

Values = dict[str, Array]
Rows = npt.NDArray[np.int64]
STATISTICS = ("count", "total", "second")


def observed(machine: Machine, values: Values, samples: Samples, rows: Rows, weight: float = 1.0) -> Values:
    """The values with samples added to the statistics, their features those of the values' network.

    Args:
        machine: the program.
        values: the whole state.
        samples: any number.
        rows: which of them.
        weight: of each; -1 takes them out again.
    """
    batch, result = machine.manifest.signatures["classify"].batch, dict(values)
    for start in range(0, len(rows), batch):  # not all features at once: they are larger than the latents
        part = rows[start : start + batch]
        features = machine.in_batches("classify", values, {"latents": samples.latents}, "features", part)
        result = _added(machine, result, features, samples.labels[part], weight)
    return result


def refreshed(machine: Machine, values: Values, samples: Samples, rows: Rows) -> Values:
    """The values with statistics of these samples alone: what older ones saw were other features."""
    return observed(machine, {**values, **{n: np.zeros_like(values[n]) for n in STATISTICS}}, samples, rows)


def forgotten(machine: Machine, values: Values, slot: int, samples: Samples, rows: Rows) -> Values:
    """The values without a class.

    Sample by sample where the store still has all that were counted, so that nothing of the class is left; else its
    mean as often as it was counted: then its spread stays part of the covariance that all classes share.

    Args:
        machine, values, samples: as in :func:`observed`.
        slot: of the class.
        rows: all stored samples of the class that are not held back.
    """
    count = float(values["count"][slot])
    if not count:
        return values
    if len(rows) == count:
        values = observed(machine, values, samples, rows, -1.0)
    else:
        mean = (values["total"][slot] / count)[None]
        values = _added(machine, values, mean, np.full(1, slot), -count)
    for name in ("count", "total"):
        values[name] = values[name].copy()
        values[name][slot] = 0.0  # not a rounding error of it
    return values


def _added(machine: Machine, values: Values, features: Array, labels: Rows, weight: float) -> Values:
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
