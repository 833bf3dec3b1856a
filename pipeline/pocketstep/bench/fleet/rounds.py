"""Fleets that differ in their method only: accuracy of the aggregated model by round, and bytes."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pocketstep.federate.simulate import fleet, need_flower
from pocketstep.recipe import FleetRecipe
from pocketstep.stages import size_of

if TYPE_CHECKING:
    from pocketstep.bench.fleet.study import FleetStudy, Row


def round_rows(study: FleetStudy, part: FleetRecipe, baselines: Sequence[str]) -> list[Row]:
    """The recipe's method and its baselines, each from the same bundle with the same devices.

    ``of_whole`` is what a device sends in a round as a share of the pre-trained network before it was split, float32:
    what FedAvg of all weights (McMahan et al. 2017) would send.
    """
    need_flower(study.engine)
    return [_of_method(study, replace(part, method=m)) for m in (part.method, *baselines)]


def _of_method(study: FleetStudy, part: FleetRecipe) -> Row:
    def measure() -> Row:
        bundle, folder = study.bundle(), study.out / part.method
        study.console.stage(f"{part.method}: {part.clients} devices, {part.rounds} rounds")
        result = fleet(
            part, bundle, study.material.elsewhere, study.material.test, folder, engine=study.engine,
            processes=study.processes,
            on_round=lambda number, accuracy: study.console.stage(f"{part.method}, round {number}: {accuracy:.1%}"),
        )  # fmt: skip
        shutil.rmtree(folder / "clients")
        used = max(1, sum(done["used"] for done in result["rounds"]))
        each = sum(done["bytes_up"] for done in result["rounds"]) / used
        whole = 4 * size_of(study.workshop.base(study.console), study.material.cloud_test)[1]
        return {**result, "bytes_up_each": each, "bytes_of_whole": whole, "of_whole": each / whole}

    return study.row(f"fleet-{part.method}", measure, study.recipe.plan, study.recipe.replay, part)
