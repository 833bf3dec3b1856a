"""``pocketstep validate``: verdicts, the tables, files and exit codes that come of them, and broken programs."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from broken import broken_copy
from test_cloud_cli import pocketstep

from pocketstep.validate import outcome as outcomes
from pocketstep.validate.errors import TargetError
from pocketstep.validate.junit import write_junit
from pocketstep.validate.matrix import read_matrix
from pocketstep.validate.outcome import Outcome
from pocketstep.validate.page import write_page
from pocketstep.validate.results import Limits, as_json, regressions
from pocketstep.validate.run import Settings, validate
from pocketstep.validate.tables import markdown, remarks
from pocketstep.validate.target import Job, UnsupportedError
from pocketstep.validate.target_report import read_report
from pocketstep.validate.targets import open_target
from pocketstep_device.errors import InputError


def report(worst: float | None = 2e-6, **more: Any) -> dict[str, Any]:
    """A target's report with a trace of one call."""
    calls = [{"index": i, "signature": "step", "worst": worst, "seconds": 0.1} for i in range(20)]
    return {
        "format": 1, "runtime": "litert", "runtime_version": "ai-edge-litert 2.3.0", "package_version": "0.1.0",
        "device": {"machine": "aarch64", "system": "Linux 6.1", "cpu": "Cortex-A72", "python": "3.11"},
        "golden": {"tolerance": 1e-4, "worst": worst, "passed": worst is not None and worst <= 1e-4, "calls": calls},
        "signatures": {"step": {"worst": worst, "calls": 20, "median_ms": 3.0}}, "forward_passes": 1.5,
        "peak_memory_mb": 60.0, "learning": None, "notes": [], "passed": True, "error": None, **more,
    }  # fmt: skip


def outcome(status: str = "passed", **more: Any) -> Outcome:
    return Outcome(**{"bundle": "a.bundle", "target": "host", "runtime": "litert", "status": status, **more})


def learning(predictions: list[int], accepted: bool = True) -> dict[str, Any]:
    return {
        "predictions": predictions,
        "accepted": accepted,
        "old_before": 1.0,
        "old_after": 1.0,
        "new": 1.0,
        "seconds": 1.0,
    }


class ScriptedTarget:
    """Gives what it was told, and raises it where it is an error."""

    def __init__(
        self, name: str, answers: list[dict[str, Any] | Exception], not_ready: TargetError | None = None
    ) -> None:
        self.name, self.runtimes, self._answers, self.closed = name, ("litert",), answers, False
        self.prepared, self._not_ready = 0, not_ready

    def prepare(self) -> None:
        self.prepared += 1
        if self._not_ready is not None:
            raise self._not_ready

    def validate(self, job: Job) -> bytes:
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return json.dumps(answer).encode()

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(
    ("found", "status", "kind"),
    [
        (report(), "passed", ""),
        (report(2e-4), "failed", "golden trace"),
        (report(None), "failed", "golden trace"),
        (report(golden=None, signatures=None), "failed", "no trace"),
        (report(golden=None, error="LiteRT cannot run 'step'", error_code=2), "failed", "refused"),
        (report(golden=None, error="tflite-runtime is not installed", error_code=3), "error", "missing tool"),
        (report(golden=None, error="[Errno 28] No space left on device", error_code=2), "error", "disk full"),
    ],
)
def test_verdicts(found: dict[str, Any], status: str, kind: str) -> None:
    judged = outcomes.judged(outcome(report=found), 1e-4)
    assert (judged.status, judged.kind) == (status, kind)
    assert bool(judged.reason) == (status != "passed")


def test_a_target_cannot_pass_by_claiming_so() -> None:
    lying = report(3e-2)
    lying["golden"].update(passed=True, worst=0.0)
    assert outcomes.judged(outcome(report=lying), 1e-4).status == "failed"


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b'{"format": 2}', b'{"format": 1}', json.dumps(report(golden={"calls": []})).encode(),
     json.dumps(report(device=3)).encode(), json.dumps(report(forward_passes="x")).encode(),
     json.dumps(report(extra=math.nan)).encode(),
     json.dumps(report(learning={"predictions": []})).encode(), b" " * (9 * 2**20)],
)  # fmt: skip
def test_what_is_no_report_is_an_error(data: bytes) -> None:
    with pytest.raises(TargetError):
        read_report(data)


def test_a_target_cannot_pass_by_skipping_calls(bundle_path: Path) -> None:
    short = report()
    del short["golden"]["calls"][-1]
    found = validate([bundle_path], [ScriptedTarget("lazy", [short])], Settings(learning=False))
    assert [(o.status, o.kind) for o in found] == [("failed", "no trace")]


def test_learning_is_held_against_the_hosts() -> None:
    here = learning([1] * 100)
    for there, status, agreement in (
        (learning([1] * 99 + [2]), "passed", 0.99),
        (learning([1] * 97 + [2] * 3), "failed", 0.97),
        (learning([1] * 100, accepted=False), "failed", 1.0),
        (learning([1] * 50), "failed", None),
    ):
        found = outcomes.compared(outcome(report=report(learning=there)), here)
        assert (found.status, found.agreement) == (status, agreement)


def test_one_dead_target_does_not_stop_the_others(bundle_path: Path) -> None:
    dead = ScriptedTarget("dead", [TargetError("died", "the board went dark")])
    missing = ScriptedTarget("missing", [UnsupportedError("no wheel")])
    bad, good = ScriptedTarget("bad", [report(1.0)]), ScriptedTarget("good", [report()])
    settings = Settings(learning=False)
    found = validate([bundle_path], [dead, missing, bad, good], settings, jobs=4)
    assert [o.status for o in found] == ["error", "unsupported", "failed", "passed"]
    assert all(target.closed for target in (dead, missing, bad, good))
    assert outcomes.exit_code(found) == 1
    assert outcomes.exit_code([found[0], found[3]]) == 3
    assert outcomes.exit_code([found[1], found[3]]) == 0
    assert outcomes.exit_code([found[1]]) == 3
    assert "the board went dark" in remarks(found)[0]


def test_a_target_that_cannot_be_made_ready_is_asked_once(bundle_path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.bundle"
    shutil.copytree(bundle_path, other)
    dark = ScriptedTarget("dark", [], not_ready=TargetError("missing tool", "it has no python3"))
    lost = ScriptedTarget("lost", [report(), TargetError("unreachable", "no route"), report()])
    settings = Settings(runtimes=("litert", "executorch"), learning=False)
    found = validate([bundle_path, other], [dark, lost], settings)
    assert [(o.status, o.kind, o.reason) for o in found[:4]] == [("error", "missing tool", "it has no python3")] * 4
    assert [o.kind for o in found[4:]] == ["", "unreachable", "unreachable", "unreachable"]
    assert (dark.prepared, lost.prepared) == (1, 1)
    assert dark.closed


def test_a_bad_bundle_does_not_stop_the_others(bundle_path: Path, tmp_path: Path) -> None:
    target = ScriptedTarget("good", [report()])
    found = validate([tmp_path / "none.bundle", bundle_path], [target], Settings(learning=False))
    assert [(o.status, o.kind) for o in found] == [("error", "bad input"), ("passed", "")]
    assert outcomes.exit_code(found) == 2


def test_a_baseline_catches_what_grew(tmp_path: Path) -> None:
    before = [outcome(report=report(), size=1000), outcome(target="phone", report=report(1e-9), size=1000)]
    path = tmp_path / "old.json"
    path.write_text(json.dumps(as_json(before, 1e-4, [])))
    assert regressions(before, path, Limits()) == []
    slow = outcome(report=report(3e-6, forward_passes=1.8), size=1040)
    assert regressions([slow], path, Limits()) == []
    assert len(regressions([slow], path, Limits(passes=1.1))) == 1
    worse = outcome(report=report(5e-6, forward_passes=2.0), size=1060)
    assert len(regressions([worse], path, Limits())) == 3
    tiny = outcome(target="phone", report=report(9e-7), size=1000)
    assert regressions([tiny], path, Limits()) == []
    assert len(regressions([outcome("unsupported")], path, Limits())) == 1
    with pytest.raises(InputError, match="is no baseline"):
        regressions(before, tmp_path / "none.json", Limits())


def test_limits_are_read_strictly() -> None:
    assert Limits.parse("size=1.5") == Limits(size=1.5)
    for text in ("speed=2", "size", "size=0.5", "size=nan"):
        with pytest.raises(InputError, match="is no limit"):
            Limits.parse(text)


def test_junit_counts_what_failed(tmp_path: Path) -> None:
    bad = outcome("failed", kind="golden trace", reason="off", report=report(1.0, learning=learning([1])))
    rows = [outcome(report=report()), bad, outcome("error", kind="died", reason="\x00gone"), outcome("unsupported")]
    write_junit(rows, ["it grew"], 1e-4, tmp_path / "out" / "junit.xml")
    suites = ElementTree.parse(tmp_path / "out" / "junit.xml").getroot()
    counts = [[suite.get(name) for name in ("tests", "failures", "errors", "skipped")] for suite in suites]
    assert counts == [list("1000"), list("2100"), list("1010"), list("1001"), list("1100")]


def test_the_page_escapes_what_targets_say(tmp_path: Path) -> None:
    found = report(math.inf, runtime_version="<script>alert(1)</script>")
    found["golden"]["calls"][0]["worst"] = None
    rows = [
        outcome("failed", kind="golden trace", reason="<b>", report=found),
        outcome("error", kind="died", reason="x"),
    ]
    write_page(rows, ["<i>"], 1e-4, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "&lt;script&gt;" in page
    assert "<script>" not in page
    assert "not finite" in page
    assert "http" not in page


def test_the_support_table_leaves_empty_what_was_not_run() -> None:
    rows = [
        outcome(report=report()), outcome(target="emulator:aarch64", report=report()),
        outcome("error", target="phone", kind="unreachable", reason="x"),
        outcome("unsupported", target="armv7", reason="no wheel"),
    ]  # fmt: skip
    lines = markdown(rows, [("jetson", "tflite"), ("host", "litert")]).splitlines()
    assert lines[2].startswith("| host | litert | pass 2.0e-06 | Cortex-A72, aarch64, Linux 6.1, ai-edge-litert 2.3.0")
    assert "| emulated: Cortex-A72" in lines[3]
    assert lines[4:] == [
        "| phone | litert |  |  |",
        "| armv7 | litert | no: no wheel |  |",
        "| jetson | tflite |  |  |",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("bundles = 3", "must be a list"),
        ("bundles = []", "names no"),
        ("speed = 1", "unknown field 'speed'"),
        ("[[target]]\nrun = true", "needs a name"),
        ('[[target]]\nname = "host"\nruntimes = ["abacus"]', "runtimes are"),
        ('jobs = -1\n[[target]]\nname = "host"', "positive number"),
        ("bundles = [", "is no matrix"),
    ],
)
def test_a_matrix_is_read_strictly(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "targets.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        read_matrix(path)


def test_our_matrix_names_targets_that_exist() -> None:
    matrix = read_matrix(Path(__file__).parents[2] / "models" / "targets.toml")
    assert {open_target(row.name).name for row in matrix.rows} >= {"host", "emulator:aarch64", "emulator:board", "adb"}


@pytest.mark.parametrize(
    "name",
    [
        "",
        "moon",
        "ssh://",
        "ssh://a b",
        "ssh://u@h:port",
        "adb:",
        "adb:a b",
        "emulator:z80",
        "emulator:riscv64",
        "host:1",
    ],
)
def test_unknown_targets_are_refused(name: str) -> None:
    with pytest.raises(InputError):
        open_target(name)


@pytest.mark.parametrize(("runtime", "file"), [("litert", "program.tflite"), ("executorch", "program.pte")])
def test_one_kernel_changed_by_one_percent_is_caught(
    runtime: str, file: str, bundle_path: Path, tmp_path: Path
) -> None:
    copy = broken_copy(bundle_path, tmp_path, (file,))
    settings = Settings(runtimes=(runtime,), learning=False)
    found = validate([copy], [open_target("host")], settings)
    assert [(o.status, o.kind) for o in found] == [("failed", "golden trace")], found
    assert found[0].worst is not None
    assert found[0].worst > 1e-3


def test_the_command_writes_what_was_asked(bundle_path: Path, tmp_path: Path) -> None:
    matrix = tmp_path / "targets.toml"
    matrix.write_text(f'bundles = ["{bundle_path}"]\n[[target]]\nname = "host"\nruntimes = ["litert"]\n')
    files = ["--junit", tmp_path / "j.xml", "--html", tmp_path / "p.html", "--markdown", tmp_path / "t.md"]
    done = pocketstep("validate", "--matrix", matrix, *files, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["passed"]
    assert 0 < found["outcomes"][0]["worst"] <= 1e-4
    row = found["outcomes"][0]["report"]
    assert row["signatures"]["step"]["calls"] >= 10
    assert row["learning"]["new"] > 0.8
    assert row["learning"]["old_after"] > 0.8
    assert all(path.stat().st_size > 100 for path in files[1::2])  # type: ignore[union-attr]
    before = replace(outcome(report=row), bundle=bundle_path.name, size=found["outcomes"][0]["size"] // 2)
    (tmp_path / "old.json").write_text(json.dumps(as_json([before], 1e-4, [])))
    again = pocketstep(
        "validate", bundle_path, "--runtime", "litert", "--no-learning", "--baseline", tmp_path / "old.json"
    )
    assert again.returncode == 1
    assert "the program's size grew" in again.stdout
    words = ["--runtime", "litert", "--no-learning", "--baseline", tmp_path / "old.json", "--json"]
    quiet = pocketstep("validate", bundle_path, *words)
    assert "worse than the baseline: " in quiet.stderr
    assert json.loads(quiet.stdout)["regressions"]
