"""The facts of a bundle as one HTML page without scripts, with a picture of the network; it opens offline."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from pocketstep.inspection import rows, text
from pocketstep.inspection.modules import rows_of

ROWS = 60
"""Parameters that the page's table lists one by one; more are folded."""
TILE = 64
"""Height of a module's drawing in its own units."""
_MEANINGS = {
    "frozen": "frozen",
    "centre": "centre tap trained",
    "full": "all taps trained",
    "head": "head, trained",
    "paths": "critical paths, one a class",
}
_BANDS = 5
"""A module of critical paths is drawn in so many."""
_GLYPH = 5
"""Taps of a kernel that are drawn in each direction; a larger kernel is drawn as so many."""


def write_page(facts: Mapping[str, Any], path: Path) -> None:
    """Writes the page.

    Args:
        facts: of a bundle, see :func:`pocketstep.inspection.facts.facts_of`; every name in them is escaped.
        path: of the page; its folder is made, an older page is replaced.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pocketstep.inspection"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        size=text.size, count=text.count, shape=text.shape, plain=text.plain, plural=text.plural, fixed=_fixed
    )
    plan = facts["plan"]
    tiles = [_tile(module) for module in _named(plan["modules"])]
    drawn = {tile["look"] for tile in tiles}
    page = environment.get_template("inspect.html.j2").render(
        facts,
        tiles=tiles,
        prefix=sum(not module["behind"] for module in plan["modules"]),
        tile=TILE,
        looks={look: meaning for look, meaning in _MEANINGS.items() if look in drawn},
        tables=_tables(facts),
        phases=rows.phase_rows,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")


def _tables(facts: Mapping[str, Any]) -> dict[str, list[tuple[Any, ...]]]:
    """Lines of cells by table."""
    files = [(file["name"], text.size(file["bytes"])) for file in facts["files"]]
    return {
        "cost": [*rows.cost_rows(facts["cost"])],
        "device": [*rows.device_rows(facts["device"])],
        "memory": [*rows.memory_rows(facts["memory"])],
        "signatures": [(s["name"], s["batch"], s["inputs"], s["outputs"]) for s in facts["signatures"]],
        "files": [*files, ("all files", text.size(facts["bundle"]["bytes"]))],
        "runtimes": [
            (r["name"], text.size(r["bytes"]), r["file"], rows.versions(r), rows.delegated(r))
            for r in facts["runtimes"]
        ],
        "parameters": [
            (
                row["name"], row["role"], rows.shapes(row), text.plain(row["trained"]), ", ".join(row["groups"]),
                text.count(row["numbers"]),
            )
            for row in rows_of(facts["plan"]["modules"], ROWS)
        ],
        "hyper": [
            (h["name"], *(text.plain(h[key]) for key in ("default", "min", "max")), h["meaning"])
            for h in facts["hyper"]
        ],
    }  # fmt: skip


def _named(modules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Modules with a ``label`` of their own, and at the first of each block ``block`` and its ``span`` of modules."""
    named: list[dict[str, Any]] = []
    first: dict[str, Any] = {}
    for module in modules:
        parts = module["name"].split(".")
        depth = 2 if len(parts) > 2 else len(parts) - 1
        block, label = ".".join(parts[:depth]), ".".join(parts[depth:])
        if not named or block != first["path"] or module["behind"] != first["behind"]:
            first = {**module, "label": label, "path": block, "block": block, "span": 0}
            named.append(first)
        else:
            named.append({**module, "label": label, "path": block, "block": "", "span": 0})
        first["span"] += 1
    return named


def _tile(module: dict[str, Any]) -> dict[str, Any]:
    """A module with its drawing: a box as high as it has outputs (a logarithm of them), its kernel's taps in it.

    Its ``look`` is its role, or ``paths``: then it has lines at these ``bands``.
    """
    height, width = (min(_GLYPH, size) for size in module["kernel"])
    whole, middle = module["role"] in ("full", "head"), (width // 2, height // 2)
    taps = [
        (x, y, whole or (module["role"] == "centre" and (x, y) == middle)) for y in range(height) for x in range(width)
    ]
    high = max(20.0, min(TILE - 4.0, 6.5 * math.log2(max(module["outputs"], 2))))
    bands = [round(high * band / _BANDS, 1) for band in range(1, _BANDS)] if module["paths"] else []
    return {
        **module, "look": "paths" if module["paths"] else module["role"], "height": round(high, 1), "bands": bands,
        "taps": taps, "taps_high": height, "taps_wide": width,
    }  # fmt: skip


def _fixed(value: float) -> str:
    return f"{value:.2f}"
