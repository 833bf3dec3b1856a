"""Outcomes as JSON, and what has become worse since an earlier run's JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketstep.validate.outcome import Outcome
from pocketstep_device.errors import InputError

FORMAT = 1
_FLOOR = 1e-6
"""An error below this is rounding, however much it grew."""


@dataclass(frozen=True)
class Limits:
    """By what factor a figure may grow over the baseline's."""

    error: float = 2.0
    size: float = 1.05
    passes: float = 1.25

    @classmethod
    def parse(cls, text: str) -> Limits:
        """Reads ``error=2,size=1.05,passes=1.25``; what is not named keeps its default.

        Raises:
            InputError: another name, or a factor below 1.
        """
        given: dict[str, float] = {}
        for part in filter(None, text.split(",")):
            name, _, value = part.partition("=")
            try:
                given[name] = float(value)
            except ValueError:
                given[name] = math.nan
            if name not in ("error", "size", "passes") or not given[name] >= 1:
                raise InputError(f"'{part}' is no limit; write for example error=2,size=1.05,passes=1.25")
        return cls(**given)


def as_json(outcomes: Sequence[Outcome], tolerance: float, regressions: Sequence[str]) -> dict[str, Any]:
    """A run, ready for JSON; a later run takes it as its baseline."""
    rows = [{**outcome.__dict__, "worst": _finite(outcome.worst)} for outcome in outcomes]
    passed = all(o.status in ("passed", "unsupported") for o in outcomes) and not regressions
    return {
        "format": FORMAT,
        "tolerance": tolerance,
        "passed": passed and any(o.status == "passed" for o in outcomes),
        "outcomes": rows,
        "regressions": list(regressions),
    }


def regressions(outcomes: Sequence[Outcome], baseline: Path, limits: Limits) -> list[str]:
    """What grew past its limit, a sentence each; only what passed then and ran now is compared.

    Raises:
        InputError: the baseline is none.
    """
    old = _read(baseline)
    return [
        f"{o.bundle} on {o.target}, {o.runtime}: {what}"
        for o in outcomes
        if (before := old.get((o.bundle, o.target, o.runtime))) is not None
        for what in _grown(o, before, limits)
    ]


def _grown(outcome: Outcome, before: Mapping[str, Any], limits: Limits) -> list[str]:
    if outcome.status == "unsupported":
        return ["it passed in the baseline and does not run now"]
    figures = {
        "the error": (outcome.worst, before.get("worst"), limits.error, _FLOOR, "{:.1e}"),
        "the program's size": (outcome.size, before.get("size"), limits.size, 0.0, "{:,.0f}"),
        "forward passes a step": (_passes(outcome.report), _passes(before.get("report")), limits.passes, 0.0, "{:.2f}"),
    }
    found = []
    for name, (now, then, limit, floor, form) in figures.items():
        if now is None or not then:
            continue
        if now > then * limit and now > floor:
            found.append(f"{name} grew from {form.format(then)} to {form.format(now)}, more than {limit:g} times")
    return found


def _passes(report: Any) -> float | None:
    return report.get("forward_passes") if isinstance(report, Mapping) else None


def _read(path: Path) -> dict[tuple[str, str, str], dict[str, Any]]:
    try:
        found = json.loads(path.read_text())
        if found["format"] != FORMAT:
            raise ValueError("another format")
        rows = [row for row in found["outcomes"] if row["status"] == "passed"]
        return {(row["bundle"], row["target"], row["runtime"]): row for row in rows}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no baseline ({error}); make one with pocketstep validate --json > FILE") from error


def _finite(value: float | None) -> float | None:
    return value if value is None or math.isfinite(value) else None
