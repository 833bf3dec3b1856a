"""What came of asking one target about one bundle on one runtime, and how a target's report is read and judged."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pocketstep.validate.errors import TargetError

FORMAT = 1
SAME_ANSWERS = 0.98
"""Share of the learning task's predictions that must be the host's."""
_LONGEST = 8 * 2**20
_FIELDS: dict[str, type | tuple[type, ...]] = {
    "runtime": str, "runtime_version": str, "package_version": str, "device": dict, "passed": bool,
}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """One cell of the support table.

    Attributes:
        bundle, target, runtime: what was asked.
        status: ``passed``; ``failed``, a check of the bundle; ``error``, the target could not be asked;
            ``unsupported``, this runtime does not exist for it.
        kind: of a failure or error, in a word or two; empty when passed.
        reason: in a sentence; empty when passed.
        report: the target's own, where there is one.
        agreement: share of the learning task's predictions that are the host's; None where not compared.
        seconds: wall time of asking, copying included.
        size: bytes of the runtime's program in the bundle; 0 where it has none.
    """

    bundle: str
    target: str
    runtime: str
    status: str
    kind: str = ""
    reason: str = ""
    report: Mapping[str, Any] | None = None
    agreement: float | None = None
    seconds: float = 0.0
    size: int = 0

    @property
    def worst(self) -> float | None:
        """The largest relative error; infinite where a value was not finite; None without a trace."""
        return worst_of(self.report["golden"]) if self.report and self.report.get("golden") else None


def read_report(data: bytes) -> dict[str, Any]:
    """A target's report, checked as far as it is used.

    Raises:
        TargetError: it is too long, no JSON, of another format, or lacks a field.
    """
    try:
        report = json.loads(data) if len(data) <= _LONGEST else None
    except ValueError:
        report = None
    if not isinstance(report, dict) or report.get("format") != FORMAT:
        raise TargetError("died", f"the target's report is none of format {FORMAT}; it may have died while writing")
    for name, kind in _FIELDS.items():
        if not isinstance(report.get(name), kind):
            raise TargetError("setup", f"the target's report has no usable '{name}'; update what runs there")
    if report.get("golden") and not _is_trace(report):
        raise TargetError("setup", "the target's report has a broken trace; update what runs there")
    return report


def _is_trace(report: Mapping[str, Any]) -> bool:
    golden, signatures = report["golden"], report.get("signatures")
    if not isinstance(golden, dict) or not isinstance(signatures, dict) or not isinstance(golden.get("calls"), list):
        return False
    calls = all(
        isinstance(call, dict) and {"index", "signature", "worst", "seconds"} <= set(call) for call in golden["calls"]
    )
    figures = all(isinstance(f, dict) and {"worst", "calls", "median_ms"} <= set(f) for f in signatures.values())
    return bool(golden["calls"]) and calls and figures and isinstance(golden.get("passed"), bool)


def worst_of(figures: Mapping[str, Any]) -> float:
    """``worst`` of a call, a signature or a trace: null stands for what is not finite."""
    value = figures.get("worst")
    return math.inf if value is None else float(value)


def judged(outcome: Outcome, tolerance: float) -> Outcome:
    """An outcome with a report, its status from the report's error and every call of its trace."""
    report = outcome.report or {}
    if report.get("error"):
        return _with_error(outcome, str(report["error"]), report.get("error_code"))
    if not report.get("golden"):
        return replaced(outcome, "failed", "no trace", "the target reported no golden trace")
    calls = report["golden"]["calls"]
    bad = [call for call in calls if not worst_of(call) <= tolerance]
    if bad:
        first = bad[0]
        reason = (
            f"call {first['index']} ({first['signature']}) is off by {worst_of(first):.1e}, {len(bad)} of "
            f"{len(calls)} calls are above the tolerance of {tolerance:.0e}"
        )
        return replaced(outcome, "failed", "golden trace", reason)
    return replaced(outcome, "passed", "", "")


def _with_error(outcome: Outcome, error: str, code: object) -> Outcome:
    if "No space left" in error:
        return replaced(outcome, "error", "disk full", error)
    if code == TargetError.exit_code:
        return replaced(outcome, "error", "missing tool", error)
    return replaced(outcome, "failed", "refused", error)


def compared(outcome: Outcome, reference: Mapping[str, Any] | None) -> Outcome:
    """A passed outcome whose learning task is held against the host's; fails where it learned something else."""
    learning = (outcome.report or {}).get("learning")
    if outcome.status != "passed" or not isinstance(learning, dict) or not reference:
        return outcome
    here, there = reference["predictions"], learning.get("predictions")
    if not isinstance(there, list) or len(there) != len(here):
        return replaced(outcome, "failed", "learning", "the learning task gave another number of predictions")
    agreement = sum(a == b for a, b in zip(here, there, strict=True)) / max(1, len(here))
    outcome = replaced(outcome, "passed", "", "", agreement=agreement)
    if bool(learning.get("accepted")) != bool(reference["accepted"]):
        return replaced(outcome, "failed", "learning", "the update was kept here and rolled back there, or vice versa")
    if agreement < SAME_ANSWERS:
        reason = f"after learning only {agreement:.1%} of the answers are the host's"
        return replaced(outcome, "failed", "learning", reason)
    return outcome


def replaced(outcome: Outcome, status: str, kind: str, reason: str, **more: Any) -> Outcome:
    """The same outcome with another verdict."""
    return Outcome(**{**outcome.__dict__, "status": status, "kind": kind, "reason": reason, **more})


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """1 where a check failed; else 2 or 3 where something could not be asked; 3 where nothing was run at all."""
    found = {outcome.status for outcome in outcomes}
    if "failed" in found:
        return 1
    if "error" in found:
        return 2 if any(o.kind == "bad input" for o in outcomes) else TargetError.exit_code
    return 0 if "passed" in found else TargetError.exit_code
