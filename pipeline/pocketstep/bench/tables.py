"""What was measured, as tables for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

BUSY = 0.5
"""Load of the minute before from which on others took part in what was measured."""
SHOWN = 20
"""Groups of operators that a profile's table lists; the rest is one row."""
_SIGNATURES = ("encode", "classify", "step", "score")


def _table(title: str, left: Sequence[str], right: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in left:
        table.add_column(name, vertical="bottom", overflow="fold")
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def machine_line(machine: dict[str, Any]) -> str:
    """Where it was measured."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    load = machine["load"]
    busy = f" (busy before: load {load:.1f}; measure again)" if load is not None and load > BUSY else ""
    system = f"{machine['system']}, Python {machine['python']}, {versions}"
    return f"{machine['cpu']}, {machine['cores']} cores{busy}, {system}"


def step_table(result: dict[str, Any]) -> Table:
    """A row for each bundle, runtime and number of threads."""
    rows = result["rows"]
    timed = [name for name in _SIGNATURES if any(name in row["seconds"] for row in rows)]
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        "batch": lambda row: str(row["batch"]),
        **{f"{name}\nms": _milliseconds(name) for name in timed},
        "forward\npasses": lambda row: _ratio(row["forward_passes"]),
        "suffix\npasses": lambda row: _ratio(row["suffix_passes"]),
    }
    if any(row["exact_forward_passes"] for row in rows):
        columns["exact\npasses"] = lambda row: _ratio(row["exact_forward_passes"])
        columns["over\nexact"] = lambda row: _ratio(row["over_exact"])
    if any("plain" in row["seconds"] for row in rows):
        columns["plain\nms"] = _milliseconds("plain")
        columns["forward\n/ plain"] = lambda row: _ratio(row["over_plain"])
    if any(row["speed_up"] for row in rows):
        columns["speed-up\nby threads"] = lambda row: _ratio(row["speed_up"])
    if len(rows) > 1:
        columns["of first\nrow's step"] = lambda row: _ratio(row["of_first"])
    title = f"medians of {result['rounds']} rounds of {result['repeat']} calls"
    table = _table(title, ["bundle", "runtime", "threads"], list(columns))
    for row in rows:
        cells = [cell(row) for cell in columns.values()]
        table.add_row(_name(row), row["runtime"], str(row["threads"]), *cells)
    return table


def memory_table(result: dict[str, Any]) -> Table:
    """A row for each signature and each way to learn."""
    title = f"peak resident memory above idle, threads {result['threads']}"
    table = _table(title, ["bundle", "runtime", "signature"], ["batch", "MiB", "foretold", "s", "program MiB"])
    last = {(row["bundle"], row["runtime"]): index for index, row in enumerate(result["rows"])}
    for index, row in enumerate(result["rows"]):
        table.add_row(
            _name(row), row["runtime"], row["signature"], str(row["batch"] or ""),
            f"{row['resident_mb']:.1f}", "" if row["forecast_mb"] is None else f"{row['forecast_mb']:.1f}",
            "" if row["seconds"] is None else f"{row['seconds']:.1f}", f"{row['program_bytes'] / 2**20:.2f}",
            end_section=index == last[row["bundle"], row["runtime"]],
        )  # fmt: skip
    return table


def poison_table(result: dict[str, Any]) -> Table:
    """A row for each scenario; accuracies on test images."""
    title = f"bad observations, '{result['method']}' on {result['runtime']}"
    table = _table(title, ["observed", "the update"], ["stored", "least", "old before", "old", "new"])
    for row in result["rows"]:
        verdict = f"kept '{row['chosen']}'" if row["accepted"] else "rolled back"
        table.add_row(
            row["scenario"], verdict + (", images refused" if row["refused"] else ""), str(row["stored"]),
            str(row["least_share"]), *(f"{row[key]:.1%}" for key in ("old_before", "old", "new")),
        )  # fmt: skip
    return table


def profile_tables(profile: dict[str, Any]) -> Iterator[Table | str]:
    """Groups of operators, totals by kind, and what the parts add up to."""
    operators, whole = profile["operators"], profile["whole_ms"]
    total = sum(group["ms"] for group in operators)
    where = f"{_name(profile)}, LiteRT's {profile['signature']}, threads {profile['threads']}"
    table = _table(where, ["operator", "shapes"], ["count", "ms", "share", "GMAC/s", "XNNPACK"])
    for group in operators[:SHOWN]:
        speed = group["macs"] * group["count"] / group["ms"] / 1e6 if group["ms"] else 0.0
        table.add_row(
            group["kind"], group["shapes"], str(group["count"]), f"{group['ms']:.3f}", f"{group['ms'] / total:.1%}",
            f"{speed:.1f}" if speed else "", "yes" if group["xnnpack"] else "no",
        )  # fmt: skip
    if rest := operators[SHOWN:]:
        left = sum(group["ms"] for group in rest)
        counted = str(sum(group["count"] for group in rest))
        table.add_row(f"{len(rest)} others", "", counted, f"{left:.3f}", f"{left / total:.1%}", "", "")
    yield table
    yield _kinds(operators, total)
    outside = sum(group["count"] for group in operators if not group["xnnpack"])
    yield (
        f"parts {total:.2f} ms, the whole {whole:.2f} ms ({total / whole:.2f}); {profile['delegates']} delegates, "
        f"{outside} operators outside of them"
    )


def _kinds(operators: Sequence[dict[str, Any]], total: float) -> Table:
    table = _table("by kind", ["operator"], ["count", "ms", "share", "outside XNNPACK"])
    kinds: dict[str, list[dict[str, Any]]] = {}
    for group in operators:
        kinds.setdefault(group["kind"], []).append(group)
    sums = {kind: sum(group["ms"] for group in groups) for kind, groups in kinds.items()}
    for kind in sorted(sums, key=lambda name: -sums[name]):
        outside = sum(group["count"] for group in kinds[kind] if not group["xnnpack"])
        count = sum(group["count"] for group in kinds[kind])
        table.add_row(kind, str(count), f"{sums[kind]:.3f}", f"{sums[kind] / total:.1%}", str(outside or ""))
    return table


def _name(row: dict[str, Any]) -> str:
    """The bundle's name and its folder's, because demos all call theirs the same."""
    path = Path(row["bundle"])
    return str(Path(*path.parts[-2:]))


def _milliseconds(signature: str) -> Callable[[dict[str, Any]], str]:
    def cell(row: dict[str, Any]) -> str:
        seconds = row["seconds"].get(signature)
        return "" if seconds is None else f"{seconds * 1e3:.2f}"

    return cell


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def variants_table(result: dict[str, Any]) -> Table:
    """One row a variant; accuracies are means over classes, the last over updates too."""
    table = Table(title=f"{result['recipe']}, an update under the camera '{result['camera']}'", title_justify="left")
    for column in ("variant", "program / network", "step, M MACs", "before", "camera", "after the update"):
        table.add_column(column, justify="left" if column == "variant" else "right")
    for row in result["rows"]:
        table.add_row(
            row["variant"],
            f"{row['program_bytes'] / 1e6:.2f} / {row['plain_bytes'] / 1e6:.2f} MB",
            f"{row['macs.step'] / 1e6:.2f}",
            f"{row['clean']:.1%}",
            f"{row['before']:.1%}",
            f"{row['after']:.1%} ± {row['spread']:.1%}",
        )
    return table
