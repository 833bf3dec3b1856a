"""What came of asking one target about one bundle on one runtime, and how a target's report is judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pocketstep.validate.errors import TargetError
from pocketstep.validate.target_report import worst_of

SAME_ANSWERS = 0.98
"""Share of the learning task's predictions that must be the host's."""


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


def judged(outcome: Outcome, tolerance: float, calls_expected: int | None = None) -> Outcome:
    """An outcome with a report, its status from the report's error and every call of its trace.

    Args:
        outcome: with a report.
        tolerance: largest relative error that passes.
        calls_expected: how many calls the bundle's trace has; a target that skips some does not pass.
    """
    report = outcome.report or {}
    if report.get("error"):
        return _with_error(outcome, str(report["error"]), report.get("error_code"))
    if not report.get("golden"):
        return replaced(outcome, "failed", "no trace", "the target reported no golden trace")
    calls = report["golden"]["calls"]
    if calls_expected is not None and len(calls) != calls_expected:
        reason = f"the target replayed {len(calls)} of the trace's {calls_expected} calls"
        return replaced(outcome, "failed", "no trace", reason)
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
