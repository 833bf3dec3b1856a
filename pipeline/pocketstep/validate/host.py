"""Validation on this machine, every runtime of the bundle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pocketstep_device.bundle import Bundle
from pocketstep_device.golden import CallReport, by_signature, replay
from pocketstep_device.machine import Machine
from pocketstep_device.runtimes import MODULES

THREADS = 2


def validate(path: Path, runtimes: Sequence[str] | None, tolerance: float) -> dict[str, Any]:
    """Replays the trace on each runtime.

    Args:
        path: the bundle.
        runtimes: names, or None for all that this machine can run.
        tolerance: largest relative error that passes.

    Returns:
        ``passed``, and by runtime: ``worst``, ``passed``, and per signature ``worst``, ``calls``, ``median_ms``.
    """
    bundle = Bundle.open(path)
    chosen = list(runtimes) if runtimes else [name for name in bundle.manifest.runtimes if name in MODULES]
    results = {name: _summary(replay(bundle, Machine(bundle, name, THREADS)), tolerance) for name in chosen}
    passed = all(result["passed"] for result in results.values())
    return {
        "bundle": str(path),
        "target": "host",
        "tolerance": tolerance,
        "passed": passed,
        "runtimes": results,
    }


def _summary(calls: list[CallReport], tolerance: float) -> dict[str, Any]:
    worst = max(call.worst for call in calls)
    signatures = {name: asdict(report) for name, report in by_signature(calls).items()}
    return {"worst": worst, "passed": worst <= tolerance, "signatures": signatures}


def verdict_table(report: dict[str, Any]) -> Any:
    """The report as a rich table."""
    from rich.table import Table

    table = Table(title=f"{report['bundle']} on {report['target']}", title_justify="left")
    for name in ("runtime", "signature", "calls", "largest relative error", "median ms", "verdict"):
        table.add_column(name, justify="left" if name in ("runtime", "signature", "verdict") else "right")
    for runtime, result in report["runtimes"].items():
        for signature, figures in result["signatures"].items():
            verdict = "pass" if figures["worst"] <= report["tolerance"] else "FAIL"
            table.add_row(
                runtime, signature, str(figures["calls"]), f"{figures['worst']:.1e}", f"{figures['median_ms']:.2f}",
                verdict,
            )  # fmt: skip
    return table
