"""What was measured, as tables and plots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

COLOURS = "tab10"


def stream_table(result: dict[str, Any]) -> Table:
    """A row a method, best average first."""
    base = " / ".join(f"{value:.1%}" for value in result["base"])
    seen = result["protocol"]["seen"]
    title = (
        f"{seen[0]} classes, then {len(seen) - 1} × {seen[1] - seen[0]}; "
        f"base {base} ({result['kind']}, {result['epochs']} epochs); "
        f"{result['test_images']} test images, {result['runtime']}, seeds: {len(result['base'])}"
    )
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("method")
    for name in ("average", "last", "forgetting", "s an update", "MB kept"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in sorted(result["rows"], key=lambda r: -r["average"]):
        numbers = [_spread(row, what, len(result["base"])) for what in ("average", "last", "forgetting")]
        seconds = f"{row['seconds']:.1f}" if row["seconds"] is not None else ""
        table.add_row(row["title"], *numbers, seconds, f"{row['bytes'] / 1e6:.1f}" if row["bytes"] else "")
    return table


def shift_table(result: dict[str, Any]) -> Table:
    """A row for every camera, cut, variant and method."""
    title = (
        f"another camera: {result['shown']} labelled images of each of {result['classes']} classes, "
        f"{result['seconds']:g} s an update; "
        f"{result['test_images']} test images, {result['runtime']}"
    )
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("camera", "cut", "taps", "method"):
        table.add_column(name)
    for name in ("new camera", "original", "s"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in result["rows"]:
        title = row["title"] + (f": {row['chosen']}" if row["method"] == "auto" and row["chosen"] else "")
        seconds = f"{row['seconds']:.1f}" if row["seconds"] else ""
        accuracies = [f"{row[what]:.1%}" for what in ("shifted", "original")]
        table.add_row(row["camera"], row["cut"], row["variant"], title, *accuracies, seconds)
    return table


def draw_stream(result: dict[str, Any], path: Path) -> None:
    """Accuracy by number of classes known, a line a method (the first seed); beside it forgetting (all seeds)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5), layout="constrained")
    axes, lost = figure.subplots(1, 2, width_ratios=[3, 1])
    rows = sorted(result["rows"], key=lambda r: -r["average"])
    for place, row in enumerate(rows):
        values = [100 * value for value in row["curve"]]
        (line,) = axes.plot(result["protocol"]["seen"], values, marker="o", markersize=3, label=row["title"])
        lost.barh(place, 100 * row["forgetting"], color=line.get_color())
        lost.annotate(f"{100 * row['forgetting']:.1f}", (max(0.0, 100 * row["forgetting"]), place), fontsize=8,
                      xytext=(3, 0), textcoords="offset points", va="center")  # fmt: skip
    axes.set_xlabel("classes known")
    axes.set_ylabel("accuracy on them, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="lower left")
    lost.set_yticks([])
    lost.invert_yaxis()
    lost.margins(x=0.2)
    lost.set_xlabel("forgetting, points")
    figure.savefig(path, dpi=150)


def draw_costs(result: dict[str, Any], path: Path) -> None:
    """Average accuracy against seconds an update; the area of a dot is what is kept."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    rows = [row for row in result["rows"] if row["seconds"] is not None]
    times = [row["seconds"] for row in rows]
    for row in rows:
        size = 20 + (row["bytes"] or 0) / 1e5
        axes.scatter(row["seconds"], 100 * row["average"], s=size, alpha=0.6)
        kept = f", {row['bytes'] / 1e6:.1f} MB" if row["bytes"] else ""
        left = row["seconds"] ** 2 > min(times) * max(times)  # towards the middle, else the page ends before the words
        axes.annotate(row["title"] + kept, (row["seconds"], 100 * row["average"]), fontsize=8,
                      xytext=(-6 if left else 6, 4), ha="right" if left else "left",
                      textcoords="offset points")  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("seconds an update")
    axes.set_ylabel("average incremental accuracy, %")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def _spread(row: dict[str, Any], what: str, seeds: int) -> str:
    return f"{row[what]:.1%}" + (f" ± {100 * row[f'{what}_spread']:.1f}" if seeds > 1 else "")
