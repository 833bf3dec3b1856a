"""A recipe with paths and a fleet, and the folder of what was measured of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from pocketstep.bench.fleet.growth import growth_rows
from pocketstep.bench.fleet.rounds import round_rows
from pocketstep.bench.fleet.shares import single_rows, specialised_row
from pocketstep.bench.host import machine
from pocketstep.build import Workshop
from pocketstep.console import Console
from pocketstep.decouple.stage import need_section
from pocketstep.recipe import MeasuresRecipe
from pocketstep.schedules import schedules
from pocketstep_device.bundle import Bundle
from pocketstep_device.storage import write_atomically

PARTS = ("rounds", "single", "specialised", "growth")
RUNTIME = "litert"

Row = dict[str, Any]


class FleetStudy:
    """Measures what a recipe's paths and fleet are worth; a row that is there is not measured again.

    Args:
        recipe: a file or a name, with a [decouple]; [fleet] and [measures] say more to measure.
        out: folder, made when missing.
        data: where the images are, if not where the recipe says.
        console: progress.
        engine: that fleets are simulated with: ``flower`` or ``pool``.
        processes: of the simulation.

    Raises:
        InputError: no [decouple], or bad images.
    """

    def __init__(
        self, recipe: str, out: Path, data: str | Path, console: Console, engine: str = "pool", processes: int = 1
    ) -> None:
        self.workshop, self.out, self.data = Workshop(recipe, out / "stages", data), out, data
        self.recipe, self.material = self.workshop.recipe, self.workshop.material
        self.console, self.engine, self.processes = console, engine, processes
        self.more = self.recipe.measures or MeasuresRecipe()
        need_section(self.recipe)
        (out / "rows").mkdir(parents=True, exist_ok=True)

    def measure(self, parts: Sequence[str]) -> dict[str, Any]:
        """Rows of some of ``PARTS``, as far as the recipe asks for them; all that is there is in ``results.json``."""
        made = self.workshop.decoupled(self.console)
        rows: dict[str, list[Row]] = {}
        if "single" in parts:
            rows["single"] = single_rows(self, made.network)
        if "specialised" in parts and self.more.specialise:
            rows["specialised"] = [specialised_row(self, made.network, self.more.specialise)]
        if "rounds" in parts and self.recipe.fleet:
            rows["rounds"] = round_rows(self, self.recipe.fleet, self.more.baselines)
        if "growth" in parts and self.more.growth:
            rows["growth"] = growth_rows(self, self.more.growth)
        found = {
            "recipe": self.recipe.name, "network": self.recipe.teacher.network, "paths": made.report, "rows": rows,
            "cloud_images": len(self.material.cloud), "machine": machine(),
        }  # fmt: skip
        write_atomically(self.out / "results.json", json.dumps(found, indent=1).encode())
        return found

    def row(self, name: str, make: Callable[[], Row], *parts: Any) -> Row:
        """Figures, measured or kept; ``parts`` of the recipe matter to them beside data, base network and paths."""
        file = self.out / "rows" / f"{name}.json"
        digest = self.digest(*parts)
        if file.exists() and (kept := json.loads(file.read_text()))["digest"] == digest:
            return dict(kept)
        row = {**make(), "name": name, "digest": digest}
        write_atomically(file, json.dumps(row).encode())
        return row

    def digest(self, *parts: Any) -> str:
        """Of all that decides a row."""
        recipe = self.recipe
        every = (recipe.data, recipe.teacher, recipe.compress, recipe.transfer, recipe.decouple, *parts)
        content = [asdict(part) if is_dataclass(part) and not isinstance(part, type) else part for part in every]
        content.append(schedules(paths=True))
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def bundle(self) -> Bundle:
        """What the fleet's devices have at first, exported or kept."""
        return kept_bundle(
            self.workshop, self.out / "first.bundle", self.digest(self.recipe.plan, self.recipe.replay), self
        )


def kept_bundle(workshop: Workshop, target: Path, digest: str, study: FleetStudy) -> Bundle:
    """A workshop's bundle for LiteRT alone; exported once for a digest."""
    mark = target.with_name(target.name + ".digest")
    if mark.exists() and target.exists() and mark.read_text() == digest:
        return Bundle.open(target)
    mark.unlink(missing_ok=True)
    bundle = workshop.bundle(target, study.console, (RUNTIME,))
    write_atomically(mark, digest.encode())
    return bundle
