"""The page that a demo ends with: one HTML file without scripts, for phone and desktop, light and dark, offline."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

TITLES = {"litert": "LiteRT", "executorch": "ExecuTorch"}
ROLES = ("frozen", "centre", "full", "head")

# Plots are drawn in stand-in colours, which become the page's CSS variables: one drawing for light and dark.
INK, MUTED, LINE, BEFORE, OLD, NEW = (f"#0{i}0{i}0{i}" for i in range(1, 7))
VARIABLES = {INK: "ink", MUTED: "muted", LINE: "line", BEFORE: "before", OLD: "old", NEW: "new"}
SETTINGS = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 11,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": INK,
    "xtick.labelsize": 10,
}
WIDTH = 320
"""Width of a plot in its own units; also about the narrowest phone in CSS pixels, so text stays readable there."""


def write_report(results: Mapping[str, Any], path: Path) -> None:
    """Writes what a demo measured as one self-contained HTML page.

    Args:
        results: accuracies and shares as fractions, times in seconds (names ending in ``_ms``: milliseconds), sizes
            in bytes (``peak_memory_mb``: MiB). NaN is shown as a dash. Runtimes that did not run are left out.
        path: of the page; its folder is made, an older page is replaced.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pocketstep.demo"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(FILTERS)
    page = environment.get_template("report.html.j2").render(
        results,
        headline=_headline(results),
        modules=_modules(results["plan"]),
        plots={name: _plots(results, name) for name in results["runtimes"]},
        auto={name: _auto(runtime) for name, runtime in results["runtimes"].items()},
        first=next(iter(results["runtimes"])),
        roles=ROLES,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")


def _auto(runtime: Mapping[str, Any]) -> Mapping[str, Any]:
    """The first act's row of the default method."""
    row: Mapping[str, Any] = next(row for row in runtime["act1"]["rows"] if row["method"] == "auto")
    return row


def _headline(results: Mapping[str, Any]) -> str:
    name, runtime = next(iter(results["runtimes"].items()))
    row, before = _auto(runtime), runtime["act1"]["before"]
    task = f"“{results['new_class']}” from {results['observed']} images"
    took = f"in {_seconds(row['seconds'])} on {_title(name)}"
    if not row["accepted"]:
        return f"Tried to learn {task} {took}; the check did not accept the update, so it was rolled back"
    old = f"old classes {_percent(before['old'])} → {_percent(row['old'])}"
    return f"Learned {task} {took}: {_percent(row['new'])} on it, {old}"


def _modules(plan: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Parameters grouped by module, in order; ``cut`` marks the last module before the cut, where one is named so."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for parameter in plan["parameters"]:
        groups.setdefault(parameter["name"].rpartition(".")[0], []).append(parameter)
    inside = [name for name in groups if f"{name}.".startswith(f"{plan['cut']}.")]
    return [
        {
            "name": name,
            "role": max((p["role"] for p in parameters), key=ROLES.index),
            "shapes": [p["shape"] for p in parameters],
            "kernel": next((p["shape"][2:] for p in parameters if len(p["shape"]) == 4), [1, 1]),
            "cut": inside[-1:] == [name],
        }
        for name, parameters in groups.items()
    ]


def _plots(results: Mapping[str, Any], name: str) -> dict[str, Markup]:
    """The three plots of a runtime."""
    act1, act2 = results["runtimes"][name]["act1"], results["runtimes"][name]["act2"]
    classes = [*results["old_classes"], results["new_class"]]
    before, after = act1["before"]["per_class"], _auto(results["runtimes"][name])["per_class"]
    methods = [("before", act1["before"]), *((row["title"], row) for row in act1["rows"])]
    cameras = [("before", act2["before"]), *((row["title"], row) for row in act2["rows"])]
    title = _title(name)
    with matplotlib.rc_context(SETTINGS):
        return {
            "classes": _inline(
                _bars(classes, [before.get(c, math.nan) for c in classes], [after.get(c, math.nan) for c in classes]),
                f"{title}: accuracy of each class before and after the update",
                f"{name}-classes",
            ),
            "methods": _inline(
                _dumbbells([(label, row["old"], row["new"]) for label, row in methods]),
                f"{title}: accuracy on old and new classes for each method",
                f"{name}-methods",
            ),
            "cameras": _inline(
                _dumbbells([(label, row["original"], row["shifted"]) for label, row in cameras]),
                f"{title}: accuracy under the original and the shifted camera for each method",
                f"{name}-cameras",
            ),
        }


def _bars(labels: Sequence[str], before: Sequence[float], after: Sequence[float]) -> Any:
    """Two bars a label, fractions as percentages; the last label is the new class."""
    short = [label if len(label) <= 14 else f"{label[:13]}…" for label in labels]
    left = 18 + 7 * max(len(label) for label in short)
    figure, axes = _canvas(len(labels), 26, left, 86)
    rows = range(len(labels))
    colours = [OLD] * (len(labels) - 1) + [NEW]
    axes.barh([row - 0.19 for row in rows], [100 * value for value in before], 0.34, color=BEFORE)
    axes.barh([row + 0.19 for row in rows], [100 * value for value in after], 0.34, color=colours)
    axes.set_yticks(rows, short)
    for row, old, new in zip(rows, before, after, strict=True):
        axes.text(103, row, f"{_points(old)} → {_points(new)}", va="center")
    return figure


def _dumbbells(rows: Sequence[tuple[str, float, float]]) -> Any:
    """A line a row between two fractions: what was known (round) and what is learned (square)."""
    figure, axes = _canvas(len(rows), 38, 12, 16)
    axes.set_yticks([])
    for row, (label, old, new) in enumerate(rows):
        axes.text(0, row - 0.2, label if len(label) <= 32 else f"{label[:31]}…")
        axes.text(87, row - 0.2, _points(old), ha="right", color=OLD)
        axes.text(100, row - 0.2, _points(new), ha="right", color=NEW)
        axes.plot([100 * old, 100 * new], [row + 0.15] * 2, color=BEFORE, linewidth=3)
        axes.plot(100 * old, row + 0.15, "o", color=OLD, markersize=8, clip_on=False)
        axes.plot(100 * new, row + 0.15, "s", color=NEW, markersize=7, clip_on=False)
    return figure


def _canvas(rows: int, row_height: int, left: int, right: int) -> tuple[Any, Any]:
    """A figure and its axes: percent to the right, rows downwards, margins in the plot's units."""
    height = rows * row_height + 24
    figure = Figure(figsize=(WIDTH / 72, height / 72))
    axes = figure.add_axes((left / WIDTH, 20 / height, (WIDTH - left - right) / WIDTH, 1 - 24 / height))
    axes.set(xlim=(0, 100), ylim=(rows - 0.5, -0.5), xticks=(0, 50, 100), xticklabels=("0", "50", "100 %"))
    axes.tick_params(length=0)
    axes.grid(axis="x", color=LINE, linewidth=1)
    axes.set_axisbelow(True)
    axes.patch.set_visible(False)
    axes.spines[:].set_visible(False)
    return figure, axes


def _inline(figure: Any, title: str, prefix: str) -> Markup:
    """The figure as an SVG element: the page's colours and fonts, and ids of its own."""
    file = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    svg = re.sub(r"<defs>\s*<style.*?</defs>", "", file.getvalue(), count=1, flags=re.DOTALL)
    svg = re.sub(r"(\bid=\"|href=\"#|url\(#)", rf"\1{prefix}-", svg)
    svg = re.sub(r"font-family: [^;\"]+;", "", svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    view = re.search(r'<svg [^>]*viewBox="([^"]+)"[^>]*>', svg)
    if view is None:
        raise RuntimeError("matplotlib wrote an SVG without a viewBox; use the pinned version")
    opening = Markup('<svg viewBox="{}" role="img" aria-label="{}">').format(view[1], title)
    return opening + Markup(svg[view.end() :])


def _title(name: str) -> str:
    return TITLES.get(name, name)


def _or_dash(text: Callable[[float], str]) -> Callable[[float], str]:
    """The formatter with a dash for NaN."""
    return lambda value: "–" if math.isnan(value) else text(value)


def _scaled(value: float, base: int, units: Sequence[str]) -> str:
    """Three digits and a unit, e.g. 1.25 MiB."""
    power = 0
    while value >= base and power < len(units) - 1:
        value, power = value / base, power + 1
    digits = 0 if power == 0 else max(0, 2 - int(math.log10(max(value, 1))))
    return f"{value:.{digits}f}\u00a0{units[power]}".rstrip()


_points = _or_dash(lambda value: f"{100 * value:.1f}")
_percent = _or_dash(lambda value: f"{100 * value:.1f}\u00a0%")
_seconds = _or_dash(lambda value: f"{value:.1f}\u00a0s" if value >= 1 else f"{1000 * value:.0f}\u00a0ms")

FILTERS: dict[str, Callable[..., str]] = {
    "title_of": _title,
    "points": _points,
    "percent": _percent,
    "seconds": _seconds,
    "ms": _or_dash(lambda value: f"{value:.2f}\u00a0ms"),
    "fixed": _or_dash(lambda value: f"{value:.2f}"),
    "mib": _or_dash(lambda value: f"{value:.1f}"),
    "error": _or_dash(lambda value: f"{value:.1e}"),
    "bytes": _or_dash(lambda value: _scaled(value, 1024, ("B", "KiB", "MiB", "GiB"))),
    "count": _or_dash(lambda value: _scaled(value, 1000, ("", "k", "M", "G"))),
    "shape": lambda shape: "×".join(str(size) for size in shape),
}
