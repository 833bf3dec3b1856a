"""The study's rows as tables and plots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

GROWTH_TITLES = {"auto": "auto (best phase)", "enhance": "paths, new ones x10 (TeAM)", "closed-form": "closed form"}
"""Schedules by what they are in the study."""


def tables(found: dict[str, Any]) -> list[Table]:
    """Of all parts that were measured."""
    makers = {"rounds": _rounds, "single": _single, "specialised": _specialised, "growth": _growth}
    return [make(found["rows"][part]) for part, make in makers.items() if found["rows"].get(part)]


def _table(title: str, left: list[str], right: list[str]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in left:
        table.add_column(name)
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _rounds(rows: list[dict[str, Any]]) -> Table:
    first = rows[0]
    title = f"{first['clients']} devices; the aggregated model on all test images, mean per class; before: decoupled"
    count = len(first["accuracy"])
    shown = sorted({0, 1, count // 2, count - 1})
    columns = ["before", *[f"round {n}" for n in shown[1:]], "gain", "own held-back", "KiB up", "of the network"]
    table = _table(title, ["method"], columns)
    for row in rows:
        curve, own = row["accuracy"], row["rounds"][-1]["own_accuracy"]
        table.add_row(
            row["method"], *[f"{curve[n]:.1%}" for n in shown], f"{100 * (curve[-1] - curve[0]):+.1f}",
            "" if own is None else f"{own:.1%}", f"{row['bytes_up_each'] / 1024:,.0f}", f"{row['of_whole']:.1%}",
        )  # fmt: skip
    return table


def _single(rows: list[dict[str, Any]]) -> Table:
    table = _table("a single path against all other classes", ["class"], ["all test images", "mean of both sides"])
    for row in sorted(rows, key=lambda r: -r["all_images"]):
        table.add_row(row["class"], f"{row['all_images']:.1%}", f"{row['per_class_mean']:.1%}")
    return table


def _specialised(rows: list[dict[str, Any]]) -> Table:
    row = rows[0]
    found, whole = row["accuracy"], row["networks"]["whole"]
    title = (
        f"a network of {', '.join(row['classes'])}: {found['per_class_mean']:.1%} on them; the decoupled network, "
        f"choosing among them, {found['whole_network']:.1%}"
    )
    columns = ["bytes", "MACs", "LiteRT, bytes", "LiteRT, ms", "PyTorch, ms", "of whole: MACs", "LiteRT, ms"]
    table = _table(title, ["network"], columns)
    for name, f in row["networks"].items():
        table.add_row(
            name, f"{f['bytes']:,}", f"{f['macs']:,}", f"{f['litert_bytes']:,}", f"{f['litert_milliseconds']:.3f}",
            f"{f['milliseconds']:.2f}", f"{f['macs'] / whole['macs']:.0%}",
            f"{f['litert_milliseconds'] / whole['litert_milliseconds']:.0%}",
        )  # fmt: skip
    return table


def _growth(rows: list[dict[str, Any]]) -> Table:
    count = len(rows[0]["points"]) - 1
    title = f"{rows[0]['base']} classes, then {count} others one by one: old / new, mean per class"
    table = _table(title, ["method"], ["base classes", "before", "after 1", f"after {count}", "refused"])
    for row in rows:
        points = row["points"]
        pairs = [f"{p['old']:.1%} / {p['new']:.1%}" for p in (points[1], points[-1])]
        refused = sum(not p["accepted"] for p in points)
        title = GROWTH_TITLES.get(row["method"], row["method"])
        table.add_row(title, str(row["base_classes"]), f"{points[0]['old']:.1%}", *pairs, str(refused))
    return table


def draw(found: dict[str, Any], out: Path) -> list[Path]:
    """Writes ``rounds.png`` and ``growth.png``, as far as there is something to draw; which they are."""
    made, drawers = [], {"rounds": _draw_rounds, "growth": _draw_growth}
    for part, drawer in drawers.items():
        if found["rows"].get(part):
            made.append(out / f"{part}.png")
            drawer(found["rows"][part], made[-1])
    return made


def _draw_rounds(rows: list[dict[str, Any]], path: Path) -> None:
    """Accuracy of the aggregated model by round, a line a method."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for row in rows:
        curve = [100 * value for value in row["accuracy"]]
        label = f"{row['method']}, {row['bytes_up_each'] / 1024:,.0f} KiB"
        axes.plot(range(len(curve)), curve, marker="o", markersize=3, label=label)
    axes.axhline(100 * rows[0]["accuracy"][0], color="grey", linewidth=0.8, linestyle="--", label="before the rounds")
    axes.set(xlabel="round", ylabel="accuracy, mean per class (%)")
    axes.set_title("The aggregated model; bytes up a device and round")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)


def _draw_growth(rows: list[dict[str, Any]], path: Path) -> None:
    """Old and new classes by number of classes added, a panel for each base."""
    from matplotlib.figure import Figure

    bases = sorted({row["base_classes"] for row in rows})
    figure = Figure(figsize=(4.2 * len(bases), 4.2), layout="constrained")
    panels = figure.subplots(1, len(bases), sharey=True, squeeze=False)[0]
    methods = list(dict.fromkeys(row["method"] for row in rows))
    for axes, base in zip(panels, bases, strict=True):
        for row in (row for row in rows if row["base_classes"] == base):
            colour = f"C{methods.index(row['method'])}"
            points = row["points"]
            old, new = ([100 * p[k] for p in points if p[k] is not None] for k in ("old", "new"))
            title = GROWTH_TITLES.get(row["method"], row["method"])
            axes.plot(range(len(old)), old, color=colour, marker="o", markersize=3, label=f"{title}: old")
            steps = range(1, len(new) + 1)
            axes.plot(steps, new, color=colour, marker="s", markersize=3, linestyle="--", label=f"{title}: new")
        axes.set(xlabel="classes added", title=f"{base} classes before")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("accuracy, mean per class (%)")
    panels[0].legend(fontsize="x-small")
    figure.savefig(path, dpi=150)
