"""What an update is foretold to take, and what this machine has."""

from __future__ import annotations

from pathlib import Path

import pytest
import toy

from pocketstep_device.budget import Budget
from pocketstep_device.errors import CheckFailedError
from pocketstep_device.forecast import available_mb, check_room, forecast
from pocketstep_device.learner import Learner

pytestmark = pytest.mark.usefixtures("toys")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return toy.toy_bundle(tmp_path / "toy.bundle")


def test_the_forecast_grows_with_what_is_stored(bundle: Path) -> None:
    manifest = Learner.open(bundle, bundle.with_name("s")).manifest
    small, large = (forecast(manifest, "litert", 24, count) for count in (10, 10_010))
    assert small.measured
    assert small.program == large.program == 2**20
    assert large.data - small.data >= 10_000 * 2 * 12
    assert large.disk > small.disk


def test_a_host_that_keeps_every_signature_has_a_forecast_of_its_own(tmp_path: Path) -> None:
    manifest = Learner.open(toy.toy_bundle(tmp_path / "b"), tmp_path / "s").manifest
    cost = {**manifest.cost, "bytes.resident.litert.whole": 5.0 * 2**20}
    measured = type(manifest)(**{**vars(manifest), "cost": cost})
    in_turn, whole = (forecast(measured, "litert", 24, 10, whole=whole) for whole in (False, True))
    assert (in_turn.program, whole.program) == (2**20, 5 * 2**20)
    assert whole.data > in_turn.data  # buffers for each
    assert forecast(manifest, "litert", 24, 10, whole=True).program == 2**20  # a bundle from before


def test_without_a_measurement_it_is_a_guess_and_says_so(tmp_path: Path) -> None:
    manifest = Learner.open(toy.toy_bundle(tmp_path / "b"), tmp_path / "s").manifest
    cost = {name: value for name, value in manifest.cost.items() if "resident" not in name}
    unmeasured = type(manifest)(**{**vars(manifest), "cost": cost})
    found = forecast(unmeasured, "litert", 24, 10)
    assert not found.measured
    with pytest.raises(CheckFailedError, match="by a guess from the program's size"):
        check_room(found, Budget(memory_mb=0.1), 0.0, tmp_path)


def test_what_the_process_holds_already_is_not_needed_again(tmp_path: Path) -> None:
    manifest = Learner.open(toy.toy_bundle(tmp_path / "b"), tmp_path / "s").manifest
    found = forecast(manifest, "litert", 24, 10)
    budget = Budget(memory_mb=(found.memory - 0.9 * found.program) / 2**20)
    with pytest.raises(CheckFailedError, match="more than its budget"):
        check_room(found, budget, 0.0, tmp_path)
    check_room(found, budget, 500.0, tmp_path)


def test_free_memory_is_the_least_that_anybody_leaves(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 262144 kB\nMemAvailable:  131072 kB\n")
    group = tmp_path / "cgroup"
    assert available_mb(tmp_path / "meminfo", group) == 128
    group.mkdir()
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("1000\n")
    assert available_mb(tmp_path / "meminfo", group) == 128
    (group / "memory.max").write_text(f"{64 * 2**20}\n")
    (group / "memory.current").write_text(f"{60 * 2**20}\n")
    assert available_mb(tmp_path / "meminfo", group) == 4
    assert available_mb(tmp_path / "none", tmp_path / "none") is None
