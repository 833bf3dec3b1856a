"""Parts of a decoupled network: one path against all other classes, and a network of some classes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn

from pocketstep.bench.fleet.latency import latencies
from pocketstep.decouple.stage import figures, specialised
from pocketstep.weights import save_network

if TYPE_CHECKING:
    from pocketstep.bench.fleet.study import FleetStudy, Row


def single_rows(study: FleetStudy, network: nn.Module) -> list[Row]:
    """Every class's path alone, told from all others: the accuracy over all test images, and the mean of both sides."""

    def measured(name: str) -> Row:
        study.console.stage(f"one path: {name}")
        watching = study.workshop.watching(study.console)
        _, found = specialised(study.recipe, study.material, network, [name], watching)
        return {**found, "class": name}

    names = study.material.cloud.classes
    return [study.row(f"single-{i}", partial(measured, name)) for i, name in enumerate(names)]


def specialised_row(study: FleetStudy, network: nn.Module, classes: Sequence[str]) -> Row:
    """Whole, decoupled and specialised network side by side: accuracy on the classes, bytes, MACs, milliseconds.

    The whole and the decoupled network choose among the specialised one's classes only. Times are medians of single
    images on one thread, the networks taking turns, in PyTorch and as LiteRT programs.
    """

    def measure() -> Row:
        names = list(classes)
        study.console.stage(f"a network of {', '.join(names)}")
        part, found = specialised(study.recipe, study.material, network, names)
        save_network(part, study.out / "specialised.safetensors")
        whole = study.workshop.base(study.console)
        networks = {"whole": whole, "decoupled": network, "specialised": part}
        rows: dict[str, dict[str, Any]] = {k: dict(v) for k, v in figures(networks, study.material.cloud_test).items()}
        for name, more in latencies(networks, study.material.cloud, study.out / "latency").items():
            rows[name].update(more)
        return {"classes": names, "accuracy": found, "networks": rows}

    return study.row("specialised", measure, *classes)
