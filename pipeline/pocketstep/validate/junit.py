"""Outcomes as JUnit XML: a suite an outcome, a case a signature, one for learning, one for what grew."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from pocketstep.validate.outcome import Outcome
from pocketstep.validate.target_report import worst_of

_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd]")


def write_junit(outcomes: Sequence[Outcome], regressions: Sequence[str], tolerance: float, path: Path) -> None:
    """Writes the file; its folder is made."""
    root = ElementTree.Element("testsuites", name="pocketstep validate")
    for outcome in outcomes:
        _suite(root, outcome, tolerance)
    if regressions:
        suite = ElementTree.SubElement(root, "testsuite", name="baseline")
        for text in regressions:
            _bad(_case(suite, text, 0.0), "failure", "regression", text)
        _count(suite)
    path.parent.mkdir(parents=True, exist_ok=True)
    ElementTree.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)


def _suite(root: ElementTree.Element, outcome: Outcome, tolerance: float) -> None:
    name = ".".join(part for part in (outcome.bundle, outcome.target, outcome.runtime) if part)
    suite = ElementTree.SubElement(root, "testsuite", name=_text(name), time=f"{outcome.seconds:.3f}")
    figures = outcome.report["signatures"] if outcome.report and outcome.worst is not None else {}
    for signature, own in figures.items():
        case = _case(suite, signature, own["median_ms"] * own["calls"] / 1e3)
        if not worst_of(own) <= tolerance:
            _bad(case, "failure", "golden trace", f"off by {worst_of(own):.1e}, tolerance {tolerance:.0e}")
    learning = (outcome.report or {}).get("learning")
    if learning:
        case = _case(suite, "learning", float(learning.get("seconds", 0.0)))
        if outcome.kind == "learning":
            _bad(case, "failure", outcome.kind, outcome.reason)
    if outcome.status == "unsupported":
        ElementTree.SubElement(_case(suite, "run", 0.0), "skipped", message=_text(outcome.reason))
    elif outcome.status == "error":
        _bad(_case(suite, "run", outcome.seconds), "error", outcome.kind, outcome.reason)
    elif outcome.status == "failed" and outcome.kind not in ("golden trace", "learning"):
        _bad(_case(suite, "run", outcome.seconds), "failure", outcome.kind, outcome.reason)
    _count(suite)


def _case(suite: ElementTree.Element, name: str, seconds: float) -> ElementTree.Element:
    where = suite.get("name", "")
    return ElementTree.SubElement(suite, "testcase", classname=where, name=_text(name), time=f"{seconds:.3f}")


def _bad(case: ElementTree.Element, tag: str, kind: str, reason: str) -> None:
    ElementTree.SubElement(case, tag, type=kind, message=_text(reason))


def _count(suite: ElementTree.Element) -> None:
    cases = suite.findall("testcase")
    suite.set("tests", str(len(cases)))
    for tag, name in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        suite.set(name, str(sum(case.find(tag) is not None for case in cases)))


def _text(text: str) -> str:
    """Without the characters that XML cannot hold."""
    return _NO_XML.sub("?", text)
