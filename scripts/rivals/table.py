"""Measurements of all rounds as one table: rich text, Markdown, or rows for JSON."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

REFERENCE = "onnxruntime"
HEADINGS = (
    "network", "plan", "rival", "ms a step", "lowest–highest", "fastest", "× ORT", "× exact", "ms once", "peak MiB",
    "program MiB",
)  # fmt: skip
MEBIBYTE = 2**20


def rows(measurements: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each network, plan and rival.

    Args:
        measurements: what the rivals' scripts answered, of all rounds.

    Returns:
        Rows with ``seconds`` (median of the rounds' medians), ``spread`` (lowest and highest of them), ``fastest``
        (single step), ``resident_mb`` (the highest), ``program_bytes``, ``of_reference`` (seconds over ONNX
        Runtime's for the same network and plan; None without), ``over_exact`` (of pocketstep's), or with ``error``.
    """
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for measurement in measurements:
        key = (measurement["network"], measurement["plan"], measurement["rival"])
        groups.setdefault(key, []).append(measurement)
    found = [_row(group) for group in groups.values()]
    reference = {(r["network"], r["plan"]): r["seconds"] for r in found if r["rival"] == REFERENCE and "error" not in r}
    for row in found:
        base = reference.get((row["network"], row["plan"]))
        row["of_reference"] = row["seconds"] / base if base and "error" not in row else None
    return found


def _row(group: list[dict[str, Any]]) -> dict[str, Any]:
    keys = ("network", "plan", "rival", "version", "notes", "encode_seconds")
    row = {key: group[0][key] for key in keys if key in group[0]}
    errors = [measurement["error"] for measurement in group if "error" in measurement]
    if errors:
        return {**row, "error": errors[0]}
    medians = [measurement["seconds"] for measurement in group]
    row |= {"seconds": statistics.median(medians), "spread": [min(medians), max(medians)], "rounds": len(group)}
    row["fastest"] = min(measurement["fastest"] for measurement in group)
    exact = [m["over_exact"] for m in group if m.get("over_exact")]
    row["over_exact"] = statistics.median(exact) if exact else None
    row["resident_mb"] = max((m["resident_mb"] for m in group if "resident_mb" in m), default=None)
    row["program_bytes"] = next((m["program_bytes"] for m in group if "program_bytes" in m), None)
    return row


def text(found: list[dict[str, Any]], machine: dict[str, Any]) -> str:
    """The table for a terminal, with notes below."""
    drawn = Table(*HEADINGS, title="one training step, side by side")
    for column in drawn.columns[3:]:
        column.justify = "right"
    previous = None
    for row in found:
        part = (row["network"], row["plan"])
        if previous not in (None, part):
            drawn.add_section()
        drawn.add_row(*_cells(row))
        previous = part
    console = Console(record=True, quiet=True)
    console.width = max(100, Measurement.get(console, console.options.update(max_width=1000), drawn).maximum)
    with console.capture() as captured:
        console.print(drawn)
    return "\n".join([captured.get(), *notes(found, machine)])


def markdown(found: list[dict[str, Any]], machine: dict[str, Any]) -> str:
    """The same for a README."""
    lines = [_line(HEADINGS), _line(["---"] * 3 + ["--:"] * (len(HEADINGS) - 3))]
    lines += [_line(_cells(row)) for row in found]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes(found, machine))])


def notes(found: list[dict[str, Any]], machine: dict[str, Any]) -> list[str]:
    """What a reader must know: the machine, what is counted, every rival's notes, and why cells are empty."""
    first, last = machine["load"]
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads; load {first} before, {last} after.",
        "Median of the rounds' medians, the lowest and highest of these, and the fastest single step; × ORT: the "
        "median over ONNX Runtime training's.",
        "× exact: the step over its multiply-adds at the speed of encode and classify on the same runtime and threads.",
        "Peak: resident memory above the process with its libraries and no model. Program: files that a device holds.",
        "Rivals run from images; pocketstep from latents: what is before its cut runs once an image, not once a step "
        "('ms once': for one batch).",
    ]
    versions = {row["rival"]: row for row in found if row.get("notes")}
    lines += [f"{name} {row.get('version', '')}: {row['notes']}." for name, row in versions.items()]
    return lines + list(_errors(found))


def _errors(found: list[dict[str, Any]]) -> Iterable[str]:
    """Every reason for an empty row, once, with the rows that it holds for."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in found:
        if "error" in row:
            reasons.setdefault((row["rival"], row["error"]), []).append(f"{row['network']} {row['plan']}")
    for (rival, reason), places in reasons.items():
        yield f"{rival}, {', '.join(places)}: {reason}."


def _cells(row: dict[str, Any]) -> list[str]:
    heading = [row["network"], row["plan"], row["rival"]]
    if "error" in row:
        return [*heading, "–", *[""] * (len(HEADINGS) - 4)]
    low, high = row["spread"]
    times = [_ms(row["seconds"]), f"{_ms(low)}–{_ms(high)}", _ms(row["fastest"]), _number(row["of_reference"])]
    times.append(_number(row["over_exact"]))
    sizes = [_number(row["resident_mb"], 0), _number(row["program_bytes"], scale=MEBIBYTE)]
    return [*heading, *times, _ms(row["encode_seconds"]) if "encode_seconds" in row else "", *sizes]


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3g}" if seconds < 1 else f"{seconds * 1000:.0f}"


def _number(value: float | None, digits: int = 2, scale: float = 1) -> str:
    return "" if value is None else f"{value / scale:.{digits}f}"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
