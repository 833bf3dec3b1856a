"""The study's rows as tables and a plot, as the paper shows them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

METHODS = {
    "blocks": "dependent", "none": "independent", "scratch": "independent, random weights", "hinton": "soft logits",
    "fitnet": "FitNet", "features": "features",
}  # fmt: skip
_SLACK = 0.01
"""Converged: the first point of a curve from which the goal is at most so far away."""


def tables(found: dict[str, Any]) -> list[Any]:
    """Rich tables of all parts that were measured."""
    rows, makers = found["rows"], {"curve": _curve, "criteria": _criteria, "methods": _methods}
    made = [makers[part](found) for part in makers if rows.get(part)]
    if rows.get("increment"):
        made.append(_increment(rows["increment"]))
    if rows.get("unseen"):
        made.append(_unseen(rows["unseen"]))
    return made


def steps_to(curve: Sequence[Sequence[float]], goal: float) -> int | None:
    """The first step at which a curve of (step, accuracy) reaches a goal; None: never."""
    return next((int(step) for step, accuracy in curve if accuracy >= goal), None)


def convergence(rows: Sequence[dict[str, Any]]) -> list[int | None]:
    """Steps of each row to the best accuracy of the first independent student's curve, less one point."""
    independent = next((row for row in rows if row["method"] == "none"), rows[0])
    goal = max(accuracy for _, accuracy in independent["curve"]) - _SLACK
    return [steps_to(row["curve"], goal) for row in rows]


def plot(found: dict[str, Any], path: Path) -> None:
    """Accuracy against parameters, and the curves of the methods, side by side; without what was not measured."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    rows = found["rows"]
    series: dict[str, list[tuple[float, float]]] = {}
    for row in [*rows.get("curve", []), *rows.get("criteria", [])]:
        name = "activation sparsity (ours)" if row["importance"] == "activation" else row["importance"]
        series.setdefault(name, []).append((row["parameters"] / 1e6, 100 * row["accuracy"]))
    if found["published"]:
        series["published"] = [(row[2], row[1]) for row in found["published"]]
    for name, points in series.items():
        left.plot(*zip(*sorted(points), strict=True), marker="o", label=name)
    left.set(xscale="log", xlabel="parameters (millions)", ylabel="accuracy (%)", title="Compression")
    for row in rows.get("methods", []):
        if row["curve"]:
            steps, accuracies = zip(*row["curve"], strict=True)
            right.plot(steps, [100 * value for value in accuracies], label=METHODS.get(row["method"], row["method"]))
    right.set(xlabel="steps", ylabel="accuracy on held-back images (%)", title="Knowledge transfer")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)
        else:
            axes.remove()
    FigureCanvasAgg(figure).print_png(str(path))


def _table(title: str, *columns: str) -> Any:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for index, name in enumerate(columns):
        table.add_column(name, justify="right" if index else "left")
    return table


def _size(row: dict[str, Any], teacher: dict[str, Any]) -> tuple[str, ...]:
    ratio = teacher["parameters"] / row["parameters"]
    return f"{row['parameters']:,}", f"{ratio:.1f}x", f"{row['macs'] / 1e6:.1f}"


def _curve(found: dict[str, Any]) -> Any:
    teacher = found["teacher"]
    title = f"students of {found['network'] or 'the teacher'}, {found['epochs']} epochs"
    table = _table(title, "P", "accuracy", "parameters", "ratio", "MMACs", "published")
    published = {row[0]: f"{row[1]:.2f}, {row[2]:.2f} M" for row in found["published"]}
    table.add_row("teacher", _percent(teacher["accuracy"]), *_size(teacher, teacher), "")
    for row in found["rows"]["curve"]:
        size = _size(row, teacher)
        table.add_row(f"{row['threshold']:g}", _percent(row["accuracy"]), *size, published.get(row["threshold"], ""))
    return table


def _criteria(found: dict[str, Any]) -> Any:
    table = _table("criteria at equal parameters", "P", "criterion", "accuracy", "parameters", "ratio", "MMACs")
    rows = [*found["rows"].get("curve", []), *found["rows"]["criteria"]]
    compared = {row["threshold"] for row in found["rows"]["criteria"]}
    for row in sorted(rows, key=lambda row: -row["threshold"]):
        if row["threshold"] in compared:
            size = _size(row, found["teacher"])
            table.add_row(f"{row['threshold']:g}", row["importance"], _percent(row["accuracy"]), *size)
    return table


def _methods(found: dict[str, Any]) -> Any:
    rows = found["rows"]["methods"]
    table = _table(
        f"learning at P = {rows[0]['threshold']:g}; converged: one point below the independent student's best",
        "student", "accuracy", "steps", "converged at", "times fewer", "seconds",
    )  # fmt: skip
    steps = convergence(rows)
    independent = next((s for row, s in zip(rows, steps, strict=True) if row["method"] == "none"), None)
    for row, step in zip(rows, steps, strict=True):
        faster = f"{independent / step:.1f}" if independent and step else ""
        table.add_row(
            METHODS.get(row["method"], row["method"]), _percent(row["accuracy"]), f"{row['steps']:,}",
            f"{step:,}" if step else "never", faster, f"{row['seconds']:.0f}",
        )  # fmt: skip
    return table


def _increment(rows: Sequence[dict[str, Any]]) -> Any:
    table = _table(
        f"{len(rows[0]['classes']) - 1}+1 classes: the new one is '{rows[0]['new_class']}'",
        "student", "replayed a class", "old", "new", "mean of the two groups", "per-class mean", "steps",
    )  # fmt: skip
    for row in rows:
        table.add_row(
            METHODS[row["method"]], str(row["replay"]), *(_percent(row[k]) for k in ("old", "new", "groups")),
            _percent(row["accuracy"]), f"{row['steps']:,}",
        )  # fmt: skip
    return table


def _unseen(rows: Sequence[dict[str, Any]]) -> Any:
    names = " and ".join(rows[0]["trained_on"])
    table = _table(
        f"classes never seen, after images of {names}", "student", "P", "unseen classes", "per-class mean", "steps"
    )
    for row in rows:
        cells = _percent(row["unseen"]), _percent(row["accuracy"]), f"{row['steps']:,}"
        student = METHODS[row["method"]] + (", images mixed" if row["mix"] else "")
        table.add_row(student, f"{row['threshold']:g}", *cells)
    return table


def _percent(value: float) -> str:
    return f"{value:.1%}"
