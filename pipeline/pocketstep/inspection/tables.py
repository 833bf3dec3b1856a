"""The facts of a bundle as tables for the terminal; names come from the bundle and are cleaned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from pocketstep.inspection import rows, text
from pocketstep.inspection.modules import rows_of

ROWS = 30
"""Parameters that are listed one by one; more are folded."""
_STYLES = {"frozen": "dim", "centre": "yellow", "full": "magenta", "head": "green"}


def tables(facts: dict[str, Any]) -> Iterator[Table | str]:
    """Everything, part by part; lines of text between tables."""
    yield _headline(facts)
    yield _parameters(facts["plan"])
    yield _table("signatures", ("name",), ("batch", "inputs", "outputs"), [
        (s["name"], s["batch"], s["inputs"], s["outputs"]) for s in facts["signatures"]
    ])  # fmt: skip
    if cost := rows.cost_rows(facts["cost"]):
        yield _table("cost by exact arithmetic, for one image", ("",), ("",), cost)
    yield _table("runtimes", ("name", "versions", "delegated"), ("size",), [
        (r["name"], rows.versions(r), rows.delegated(r), text.size(r["bytes"])) for r in facts["runtimes"]
    ])  # fmt: skip
    yield _table("files", ("name",), ("size",), [(f["name"], text.size(f["bytes"])) for f in facts["files"]])
    yield _table("on the device", ("",), ("tensors", "numbers", "size"), rows.device_rows(facts["device"]))
    if facts["memory"]:
        title = f"peak memory of an update, {facts['memory'][0]['observed']} images observed (foretold)"
        columns = ("program", "samples and state", "together")
        yield _table(title, ("runtime",), columns, rows.memory_rows(facts["memory"]))
    yield _table("hyper-parameters", ("name",), ("default", "from", "to"), [
        (h["name"], *(text.plain(h[key]) for key in ("default", "min", "max"))) for h in facts["hyper"]
    ])  # fmt: skip
    yield _table("schedules of updates", ("name", "phase", "settings"), (), [
        (schedule["name"] if index == 0 else "", *phase)
        for schedule in facts["schedules"]
        for index, phase in enumerate(rows.phase_rows(schedule))
    ])  # fmt: skip


def _headline(facts: dict[str, Any]) -> str:
    bundle, task, plan = facts["bundle"], facts["task"], facts["plan"]
    latent = text.size(facts["device"]["latent_bytes"])
    lines = [
        f"{bundle['name']}, made by {bundle['producer']}, {text.size(bundle['bytes'])}",
        f"{bundle['path']}  sha256 {bundle['digest']}",
        f"{text.plural(len(task['classes']), 'class')} and {text.plural(task['free'], 'free slot')}: "
        + ", ".join(task["classes"]),
        f"input {text.shape(task['input'])} {task['colour']}; plan '{plan['preset']}', cut after '{plan['cut']}'; "
        f"latent {text.shape(plan['latent'])} int8, {latent} an image",
        rows.roles_line(plan),
    ]
    return "\n".join(text.clean(line) for line in lines)


def _parameters(plan: dict[str, Any]) -> Table:
    found = rows_of(plan["modules"], ROWS)
    title = "parameters" if all(row["count"] == 0 for row in found) else "parameters, folded by module"
    table = _table(title, ("name", "role", "shapes", "trained", "group"), ("numbers",), [])
    for index, row in enumerate(found):
        last = index + 1 < len(found) and found[index + 1]["behind"] and not row["behind"]
        table.add_row(
            Text(text.clean(row["name"])), Text(row["role"], _STYLES[row["role"]]), rows.shapes(row),
            text.plain(row["trained"]), Text(text.clean(", ".join(row["groups"]))), text.count(row["numbers"]),
            end_section=last,
        )  # fmt: skip
        if last:
            latent = f"{text.shape(plan['latent'])} int8"
            table.add_row(Text("✂ cut", "bold"), "", latent, "", "", "", end_section=True)
    return table


def _table(title: str, left: Sequence[str], right: Sequence[str], lines: Sequence[Sequence[Any]]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.show_header = any((*left, *right))
    for name in left:
        table.add_column(name, overflow="fold")
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    for line in lines:
        table.add_row(*(Text(text.clean(str(cell))) for cell in line))
    return table
