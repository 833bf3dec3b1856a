"""Reading what a target reported (``on_device/VALIDATION.md``): whoever wrote it is not trusted."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from pocketstep.validate.errors import TargetError

FORMAT = 1
_LONGEST = 8 * 2**20
_TEXTS = ("runtime", "runtime_version", "package_version")
_NUMBERS = ("forward_passes", "peak_memory_mb")
_LEARNED = ("old_before", "old_after", "new", "seconds")


def read_report(data: bytes) -> dict[str, Any]:
    """A target's report, every field that is used checked.

    Raises:
        TargetError: it is too long, no JSON, of another format, or lacks a field.
    """
    try:
        report = json.loads(data, parse_constant=_refused) if len(data) <= _LONGEST else None
    except (ValueError, RecursionError):
        report = None
    if not isinstance(report, dict) or report.get("format") != FORMAT:
        raise TargetError("died", f"the target's report is none of format {FORMAT}; it may have died while writing")
    wrong = [name for name in _TEXTS if not isinstance(report.get(name), str)]
    wrong += [name for name in _NUMBERS if not _is_number(report.get(name))]
    wrong += [] if isinstance(report.get("device"), dict) else ["device"]
    wrong += [] if not report.get("golden") or _is_trace(report) else ["golden"]
    wrong += [] if not report.get("learning") or _is_learning(report["learning"]) else ["learning"]
    if wrong:
        raise TargetError("setup", f"the target's report has no usable '{wrong[0]}'; update what runs there")
    return report


def worst_of(figures: Mapping[str, Any]) -> float:
    """``worst`` of a call, a signature or a trace: null stands for what is not finite."""
    value = figures.get("worst")
    return math.inf if value is None else float(value)


def _refused(text: str) -> None:
    """NaN and infinity are no JSON; a report says null."""
    raise ValueError(text)


def _is_trace(report: Mapping[str, Any]) -> bool:
    golden, signatures = report["golden"], report.get("signatures")
    if not isinstance(golden, dict) or not isinstance(signatures, dict):
        return False
    calls = golden.get("calls")
    if not isinstance(calls, list) or not calls:
        return False
    return all(_is_call(call) for call in calls) and all(_is_figures(figures) for figures in signatures.values())


def _is_call(call: object) -> bool:
    if not isinstance(call, dict) or not isinstance(call.get("signature"), str):
        return False
    return _is_error(call) and _is_number(call.get("seconds")) and _is_number(call.get("index"))


def _is_figures(figures: object) -> bool:
    if not isinstance(figures, dict):
        return False
    return _is_error(figures) and _is_number(figures.get("median_ms")) and _is_number(figures.get("calls"))


def _is_error(figures: Mapping[str, Any]) -> bool:
    return "worst" in figures and (figures["worst"] is None or _is_number(figures["worst"]))


def _is_learning(found: object) -> bool:
    if not isinstance(found, dict) or not isinstance(found.get("predictions"), list):
        return False
    return isinstance(found.get("accepted"), bool) and all(_is_number(found.get(name)) for name in _LEARNED)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
