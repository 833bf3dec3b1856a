"""A fleet's server: rounds with whatever devices a grid has, and the next bundle."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp import Grid

from pocketstep.federate.next_bundle import initial_parts, next_bundle
from pocketstep.federate.records import from_arrays, to_arrays
from pocketstep.federate.strategy import PartsAverage
from pocketstep_device.bundle import Bundle
from pocketstep_device.errors import CheckFailedError

Judged = Callable[[int, dict[str, Any]], float]
"""(round, parts) -> accuracy, 0 to 1; round 0 is before the first."""


def serve(
    grid: Grid, bundle: Bundle, out: Path, strategy: PartsAverage, rounds: int, *, seconds: float = 3600.0,
    judge: Judged | None = None, about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Runs the rounds and writes ``next.bundle`` and ``fleet.json``.

    Args:
        grid: Flower's, of a simulation or of a SuperLink.
        bundle: that every device has.
        out: folder, made when missing.
        strategy: which devices are asked, and what becomes of their answers.
        rounds: how many.
        seconds: that a round waits for answers; devices that are silent until then are missed and no more.
        judge: how good the server's parts are, where the server has test images.
        about: facts of the fleet that go along in ``fleet.json``.

    Returns:
        What is in ``fleet.json``.

    Raises:
        CheckFailedError: nobody answered in any round, so there is nothing new.
    """
    last: dict[str, Any] = {}
    curve = list[float]()

    def evaluate(number: int, arrays: ArrayRecord) -> MetricRecord | None:
        last.update(from_arrays(arrays))
        if judge is None:
            return None
        curve.append(judge(number, last))
        return MetricRecord({"accuracy": curve[-1]})

    first = initial_parts(bundle)
    strategy.start(grid, to_arrays(first), num_rounds=rounds, timeout=seconds, evaluate_fn=evaluate)
    if not any(done.used for done in strategy.rounds):
        raise CheckFailedError(
            f"in {len(strategy.rounds)} rounds no device gave an answer that could be used: see its log for why, or "
            "give the rounds more seconds"
        )
    out.mkdir(parents=True, exist_ok=True)
    made = next_bundle(bundle, last, out / "next.bundle")
    result = {
        "method": strategy.method, **(about or {}), "share": strategy.share,
        "privacy": asdict(strategy.privacy) if strategy.privacy else None,
        "accuracy": curve, "rounds": [asdict(done) for done in strategy.rounds],
        "classes": list(made.manifest.task.classes), "bytes_of_all_parts": sum(4 * p.size for p in first.values()),
        "bytes_of_network": 4 * sum(math.prod(p.shape) for p in bundle.manifest.plan.parameters),
    }  # fmt: skip
    (out / "fleet.json").write_text(json.dumps(result, indent=1))
    return result
