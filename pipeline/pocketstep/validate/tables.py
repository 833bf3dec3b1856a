"""Outcomes for people: a table for the terminal, and the support table as Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pocketstep.validate.outcome import Outcome
from pocketstep.validate.target_report import worst_of

MARKS = {"passed": "pass", "failed": "FAIL", "error": "not asked", "unsupported": "–"}
_COLOURS = {"passed": "green", "failed": "bold red", "error": "yellow", "unsupported": "dim"}


def error_text(value: float | None) -> str:
    """A relative error, as short as it can be read."""
    if value is None:
        return ""
    return f"{value:.1e}" if math.isfinite(value) else "not finite"


def outcome_table(outcomes: Sequence[Outcome], title: str) -> Any:
    """One row an outcome, as a rich table."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left")
    for name in ("bundle", "target", "runtime", "verdict"):
        table.add_column(name, no_wrap=name != "bundle", overflow="fold")
    for name in ("largest error", "forward passes", "peak MiB", "seconds"):
        table.add_column(name, justify="right")
    table.add_column("learned")
    for o in outcomes:
        report = o.report or {}
        verdict = Text(MARKS[o.status], style=_COLOURS[o.status])
        passes, peak = report.get("forward_passes") or 0, report.get("peak_memory_mb") or 0
        table.add_row(
            Text(o.bundle), Text(o.target), Text(o.runtime), verdict, error_text(o.worst),
            f"{passes:.2f}" if passes else "", f"{peak:.0f}" if peak else "", f"{o.seconds:.0f}", learned(o),
        )  # fmt: skip
    return table


def signature_table(outcomes: Sequence[Outcome], tolerance: float) -> Any:
    """Every signature of every outcome with a trace, as a rich table."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"signatures, tolerance {tolerance:.0e}", title_justify="left")
    for name, justify in (("target", "left"), ("runtime", "left"), ("signature", "left"), ("calls", "right"),
                          ("largest error", "right"), ("median ms", "right"), ("verdict", "left")):  # fmt: skip
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for o, name, figures in signatures(outcomes):
        ok = worst_of(figures) <= tolerance
        verdict = Text("pass" if ok else "FAIL", style=_COLOURS["passed" if ok else "failed"])
        error, time = error_text(worst_of(figures)), f"{figures['median_ms']:.2f}"
        table.add_row(Text(o.target), Text(o.runtime), Text(name), str(figures["calls"]), error, time, verdict)
    return table


def signatures(outcomes: Sequence[Outcome]) -> list[tuple[Outcome, str, Mapping[str, Any]]]:
    """(outcome, signature, its figures) of all that have a trace."""
    return [(o, name, f) for o in outcomes if o.worst is not None for name, f in (o.report or {})["signatures"].items()]


def learned(outcome: Outcome) -> str:
    """What the learning task came to, in a few words."""
    found = (outcome.report or {}).get("learning")
    if not isinstance(found, dict):
        return ""
    verdict = "" if found.get("accepted") else "rolled back; "
    same = "" if outcome.agreement is None else f", {outcome.agreement:.0%} as on the host"
    return f"{verdict}old {found.get('old_after', 0):.0%}, new {found.get('new', 0):.0%}{same}"


def remarks(outcomes: Sequence[Outcome]) -> list[str]:
    """A sentence for each outcome that is not a plain pass."""
    return [
        f"{o.bundle} on {o.target}{f', {o.runtime}' if o.runtime else ''}: {MARKS[o.status]} ({o.kind}): {o.reason}"
        for o in outcomes
        if o.status != "passed"
    ]


def device_text(report: Mapping[str, Any]) -> str:
    """The device and the versions of a report, in a line."""
    device = report["device"]
    name = device.get("model") or device.get("cpu") or ""
    python = f"Python {device['python']}" if device.get("python") else ""
    parts = [name, device.get("machine", ""), device.get("system", ""), report["runtime_version"], python]
    return ", ".join(str(part) for part in parts if part)


def markdown(outcomes: Sequence[Outcome], not_run: Sequence[tuple[str, str]] = ()) -> str:
    """The support table: a row for each target and runtime, the bundles in columns.

    Args:
        outcomes: of a run; ``verified on`` says what a passing one ran on, and stays empty otherwise.
        not_run: (target, runtime) of rows that this machine cannot run.
    """
    bundles = list(dict.fromkeys(o.bundle for o in outcomes))
    cells = {(o.target, o.runtime, o.bundle): o for o in outcomes if o.runtime}
    rows = list(dict.fromkeys((o.target, o.runtime) for o in outcomes if o.runtime))
    lines = ["| target | runtime | " + " | ".join(bundles) + " | verified on |", "|---" * (len(bundles) + 3) + "|"]
    for target, runtime in [*rows, *(row for row in not_run if row not in rows)]:
        own = [cells.get((target, runtime, bundle)) for bundle in bundles]
        found = next((o.report for o in own if o is not None and o.status == "passed" and o.report), None)
        emulated = "emulated: " if target.startswith("emulator") else ""
        texts = [target, runtime, *map(_cell, own), f"{emulated}{device_text(found)}" if found else ""]
        lines.append("| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |")
    return "\n".join(lines) + "\n"


def _cell(outcome: Outcome | None) -> str:
    if outcome is None or outcome.status == "error":
        return ""
    if outcome.status == "unsupported":
        return f"no: {outcome.reason}"
    return f"{MARKS[outcome.status]} {error_text(outcome.worst)}".strip()
