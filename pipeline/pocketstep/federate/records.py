"""Parts and facts as Flower's records, and back; what comes from elsewhere is not trusted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from pocketstep.federate.aggregate import Contribution
from pocketstep_device.errors import InputError

ARRAYS, CONFIG, METRICS = "arrays", "config", "metrics"
NEW_ACCURACY = "new_accuracy"
_SAMPLES = "samples@"
_ALL = "num-examples"


def to_arrays(parts: Mapping[str, Any]) -> ArrayRecord:
    """Parts as a record."""
    return ArrayRecord({name: Array(np.ascontiguousarray(part)) for name, part in parts.items()})


def from_arrays(record: ArrayRecord) -> dict[str, Any]:
    """A record's parts.

    Raises:
        InputError: an array cannot be read.
    """
    try:
        return {str(name): array.numpy() for name, array in record.items()}
    except Exception as error:  # whatever numpy says of bytes from elsewhere
        raise InputError(f"an array cannot be read ({error})") from error


def reply(parts: Mapping[str, Any], counts: Mapping[str, int], number: int, figures: Mapping[str, float]) -> RecordDict:
    """What a device answers: parts, images by class, the round, and figures for people."""
    metrics = MetricRecord({_ALL: sum(counts.values()), **{f"{_SAMPLES}{c}": n for c, n in counts.items()}, **figures})
    return RecordDict({ARRAYS: to_arrays(parts), METRICS: metrics, CONFIG: ConfigRecord({"server-round": number})})


def contribution(message: Message) -> Contribution:
    """What a device answered.

    Raises:
        InputError: a record is missing or of another kind.
    """
    try:
        content = message.content
        metrics = dict(content[METRICS])
        counts = {k.removeprefix(_SAMPLES): float(v) for k, v in metrics.items() if k.startswith(_SAMPLES)}  # type: ignore[arg-type]
        counts[""] = float(metrics[_ALL])  # type: ignore[arg-type]
        number = content[CONFIG]["server-round"]
        if type(number) is not int:
            raise InputError("its answer names no round")
        parts = from_arrays(content.array_records[ARRAYS])
        said = metrics.get(NEW_ACCURACY)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"its answer lacks something ({error})") from error
    own = float(said) if isinstance(said, int | float) and 0 <= said <= 1 else None
    return Contribution(str(message.metadata.src_node_id), number, parts, counts, own)
