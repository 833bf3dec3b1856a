"""The runner of a target: its learning task, and reports that say what happened."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import toy

from pocketstep_device import cli, validation
from pocketstep_device.bundle import Bundle
from pocketstep_device.errors import MissingToolError
from pocketstep_device.learning_check import evenly, learn, made_up, why_not
from pocketstep_device.shuffle import SplitMix64
from pocketstep_device.validation import device, runtime_version, validate


def test_made_up_latents_are_new_to_a_network_and_the_same_everywhere() -> None:
    codes = np.arange(-128, 128, dtype=np.int8).reshape(8, 2, 2, 8)
    order = [0, 3, 7, 1, 2, 6, 5, 4]
    assert SplitMix64(1).permutation(8).tolist() == order
    assert (made_up(codes) == codes[..., order]).all()
    assert made_up(codes[..., :2])[0, 0, 0].tolist() == [127, 127]


def test_no_permutation_leaves_channels_where_they_were() -> None:
    kept = [count for count in range(1, 200) if SplitMix64(1).permutation(count).tolist() == list(range(count))]
    assert kept == [1, 2]  # why latents of so few channels are negated


def test_rows_are_spaced_evenly() -> None:
    assert evenly(np.arange(10), 4).tolist() == [0, 2, 5, 7]
    assert evenly(np.arange(3), 4).tolist() == [0, 1, 2]
    assert evenly(np.arange(0), 4).tolist() == []


@pytest.mark.parametrize(
    ("seconds", "shortest", "calls"),
    [
        ([0.001], 0.001, 15 + 1),
        ([0.020 * 0.9**number for number in range(20)], 0.020 * 0.9**19, 20 + 15),  # a busy machine that calms down
        ([0.9**number for number in range(99)], 0.9**2, 3),  # and one that never does
    ],
)
def test_calls_are_timed_until_the_least_time_stays(
    seconds: list[float], shortest: float, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(seconds)
    monkeypatch.setattr(validation.time, "perf_counter", lambda: 2 * clock.now)
    monkeypatch.setattr(validation.time, "process_time", lambda: clock.now)
    found = validation.warm_calls(clock, ["step"], {})["step"]
    assert min(call.processor for call in found) == pytest.approx(shortest)
    assert all(call.seconds == pytest.approx(2 * call.processor) for call in found)
    assert len(found) == calls


class Clock:
    """A machine whose calls take given seconds of its processor, the last one for ever."""

    def __init__(self, seconds: list[float]) -> None:
        self._seconds, self.now = seconds, 0.0

    def run(self, name: str, values: object) -> None:
        self.now += self._seconds.pop(0) if len(self._seconds) > 1 else self._seconds[0]


def test_the_learning_task_repeats_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy.install(monkeypatch)
    bundle = Bundle.open(toy.toy_bundle(tmp_path / "toy.bundle"))
    assert why_not(bundle) == ""
    first, second = (learn(bundle, "litert", 1) for _ in range(2))
    assert first.predictions == second.predictions
    assert first.method == "closed-form"
    assert first.taught == 18
    assert len(first.predictions) == 12
    assert first.old_before == 1.0
    assert set(first.predictions) <= {0, 1, 2}


def test_a_bundle_without_a_task_says_why(tmp_path: Path) -> None:
    full = Bundle.open(toy.toy_bundle(tmp_path / "full.bundle", slots=2))
    assert why_not(full) == "no learning task: no class slot is free"
    taken = Bundle.open(toy.toy_bundle(tmp_path / "taken.bundle", classes=("dark", "made-up")))
    assert "has a class 'made-up'" in why_not(taken)


def test_a_report_says_what_this_machine_is() -> None:
    found = device()
    assert found["machine"]
    assert found["memory_mb"] > 0
    json.dumps(found)


def test_a_runtime_that_is_missing_is_named() -> None:
    with pytest.raises(MissingToolError, match="tflite-runtime is not installed"):
        runtime_version("tflite")
    assert runtime_version("litert").startswith("ai-edge-litert ")


def test_an_error_ends_in_the_report(tmp_path: Path) -> None:
    report = validate(tmp_path / "none.bundle", "litert")
    assert "There is no bundle" in report["error"]
    assert (report["error_code"], report["passed"], report["golden"]) == (2, False, None)
    assert validate(tmp_path, "tflite")["error_code"] == 3


def test_the_command_writes_a_report(bundle_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "report.json"
    assert cli.main(["validate", str(bundle_path), "--json", str(path)]) == 0
    assert capsys.readouterr().out == "passed\n"
    report = json.loads(path.read_text())
    assert report["bundle"] == Bundle.open(bundle_path).digest
    assert report["passed"]
    assert max(call["worst"] for call in report["golden"]["calls"]) == report["golden"]["worst"] <= 1e-4
    assert report["forward_passes"] > 0
    assert report["peak_memory_mb"] > 10
    assert report["learning"]["accepted"]
    assert cli.main(["validate", str(bundle_path), "--tolerance", "1e-12", "--no-learning"]) == 1
    strict = json.loads(capsys.readouterr().out)
    assert (strict["passed"], strict["learning"], strict["error"]) == (False, None, None)
