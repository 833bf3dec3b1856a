"""``pocketstep fleet``: a fleet on this machine with Flower's simulation engine, and the next bundle."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketstep.data import Dataset
from pocketstep.recipe import FleetRecipe
from pocketstep_device.bundle import Bundle
from pocketstep_device.errors import CheckFailedError, MissingToolError
from pocketstep_device.judge import per_class_mean
from pocketstep_device.machine import Machine

if TYPE_CHECKING:
    from pocketstep.federate.privacy import Privacy

OnRound = Callable[[int, float], None]
STORE_BYTES = 256 * 2**20
"""Shared memory of the simulation engine: messages lie there, and no more than this of them at a time."""


def need_flower(engine: str) -> None:
    """Raises MissingToolError unless Flower, and for the engine ``flower`` Ray, are installed."""
    needed = ("flwr", "ray") if engine == "flower" else ("flwr",)
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingToolError(f"{missing[0]} is not installed: pip install 'pocketstep[fleet]'")
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


def private(part: FleetRecipe) -> Privacy | None:
    """How the fleet's averages hide their devices; None where they do not.

    Raises:
        InputError: the noise is no positive number.
    """
    from pocketstep.federate.privacy import Privacy

    return Privacy(part.noise, part.norm) if part.noise else None


def fleet(
    part: FleetRecipe, bundle: Bundle, data: Dataset, test: Dataset, out: Path, *, runtime: str = "litert",
    processes: int = 2, engine: str = "flower", on_round: OnRound | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Runs a fleet and writes ``next.bundle`` and ``fleet.json``.

    Args:
        part: the fleet.
        bundle: that every device begins with.
        data: what devices see.
        test: what the server's parts are judged with after each round, classes that they know; names as in ``data``.
        out: folder; a population of an earlier run there is replaced.
        runtime: of the devices.
        processes: that devices are simulated in, one after the other in each.
        engine: ``flower``, its simulation engine on Ray; or ``pool``, the same apps in a pool of processes.
        on_round: told of each round's accuracy.

    Returns:
        The rounds, as in ``fleet.json``.

    Raises:
        MissingToolError: Flower is not installed.
        CheckFailedError: the simulation broke off, or no device's answer could be used.
    """
    need_flower(engine)
    from pocketstep.federate.aggregate import PLAIN, Defence
    from pocketstep.federate.pool import PoolGrid
    from pocketstep.federate.population import Population, write_population
    from pocketstep.federate.serve import serve
    from pocketstep.federate.strategy import PartsAverage

    clients = out / "clients"
    shutil.rmtree(clients, ignore_errors=True)
    write_population(part, data, clients)
    strategy = PartsAverage(
        part.method, part.share, min(2, part.clients), Defence() if part.defended else PLAIN, part.seed,
        privacy=private(part),
    )  # fmt: skip
    judge = Judge(bundle, test, runtime)
    result: dict[str, Any] = {}

    def judged(number: int, parts: dict[str, Any]) -> float:
        accuracy = judge(parts)
        if on_round:
            on_round(number, accuracy)
        return accuracy

    def rounds(grid: Any) -> None:
        about = {"clients": part.clients}
        result.update(serve(grid, bundle, out, strategy, part.rounds, judge=judged, about=about))

    devices = Population(clients.absolute(), Path(bundle.path).absolute(), runtime)
    if engine == "pool":
        with PoolGrid(devices, part.clients, processes) as grid:
            rounds(grid)
    else:
        _simulate(rounds, devices, part.clients, processes)
    if not result:
        raise CheckFailedError("the simulation ended before its last round; run again with --verbose")
    return result


def _simulate(rounds: Callable[[Any], None], devices: Any, count: int, processes: int) -> None:
    """In Flower's simulation engine."""
    from flwr.app import Context
    from flwr.serverapp import Grid, ServerApp
    from flwr.simulation import run_simulation

    from pocketstep.federate.client import client_app

    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        """All rounds."""
        rounds(grid)

    engine = {"num_cpus": processes, "include_dashboard": False, "object_store_memory": STORE_BYTES}
    settings: dict[str, Any] = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": engine}
    try:
        run_simulation(server, client_app(devices), count, backend_config=settings)
    except RuntimeError as error:  # its own cause is in the log
        raise CheckFailedError(
            f"the simulation engine failed ({error}): --engine pool does without Ray, which does not start on a "
            "machine that is busy"
        ) from error


class Judge:
    """How good a fleet's parts are: mean accuracy per class (0 to 1) over the classes that they know.

    Args:
        bundle: of the fleet.
        test: images of classes by their names.
        runtime: to classify with.
    """

    def __init__(self, bundle: Bundle, test: Dataset, runtime: str) -> None:
        self._bundle, self._machine = bundle, Machine(bundle, runtime, 1)
        self._names = np.array(test.classes)[test.labels]
        images = test.images.astype(np.float32)
        latents = self._machine.in_batches("encode", {}, {"images": images}, "latents")
        self._latents = np.clip(np.rint(latents), -128, 127).astype(np.int8)

    def __call__(self, parts: dict[str, Any]) -> float:
        """Of these parts."""
        from pocketstep.federate.next_bundle import state_of

        values, classes = state_of(self._bundle, parts)
        rows = np.isin(self._names, classes)
        given = {"latents": self._latents[rows]}
        found = self._machine.in_batches("classify", values, given, "probabilities").argmax(1)
        labels = np.array([classes.index(name) for name in self._names[rows]], np.int64)
        return per_class_mean(found == labels, labels)
