"""What an update may cost: refused before it begins, stopped while it runs, and never half done."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import toy

from pocketstep_device import forecast as forecasting
from pocketstep_device import machine
from pocketstep_device.budget import Budget, Meter, Power
from pocketstep_device.errors import CheckFailedError, InputError, MissingToolError
from pocketstep_device.learner import Learner
from pocketstep_device.power_supply import read_power

pytestmark = pytest.mark.usefixtures("toys")

NEW = "stripes"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return toy.toy_bundle(tmp_path / "toy.bundle")


@pytest.fixture
def state(bundle: Path, tmp_path: Path) -> Path:
    with Learner.open(bundle, tmp_path / "state") as learner:
        learner.add_class(NEW)
        learner.observe(toy.images(NEW, 30), NEW)
    return tmp_path / "state"


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def refused(bundle: Path, state: Path, budget: Budget | None, match: str) -> None:
    before = content(state)
    with Learner.open(bundle, state) as learner:
        with pytest.raises(CheckFailedError, match=match):
            learner.update(budget)
        assert learner.status()["pending_samples"] == 30
    assert content(state) == before


def test_memory_that_will_not_do_is_refused_with_the_estimate(bundle: Path, state: Path) -> None:
    refused(
        bundle, state, Budget(memory_mb=2), r"would need about \d+ MiB, more than its budget of 2 MiB; it was not be"
    )


def test_memory_that_is_not_free_is_refused(bundle: Path, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any budget: a small board that is full."""
    monkeypatch.setattr(forecasting, "available_mb", lambda: 1.5)
    refused(bundle, state, None, r"would need about \d+ MiB, and this machine has 2 MiB free")


def test_disk(bundle: Path, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(bundle, state, Budget(disk_mb=0.01), r"would write 0\.1 MiB, more than its budget of 0\.01 MiB")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1000))
    refused(bundle, state, None, "and the disk of .* has 0.0 MiB free")


def test_battery(bundle: Path, state: Path) -> None:
    for power in (Power(0.1, False), Power(0.49, False)):
        refused(bundle, state, Budget(power=lambda power=power: power, min_battery=0.5), "battery is below 50%")
    for power in (Power(0.5, False), Power(0.0, True)):
        with Learner.open(bundle, state) as learner:
            assert learner.update(Budget(power=lambda power=power: power, min_battery=0.5)).accepted
            learner.rollback()


def test_a_battery_that_runs_down_ends_the_steps(bundle: Path, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host is asked while the update runs; what was learned until then is judged as ever."""
    monkeypatch.setattr("pocketstep_device.budget._POWER_EVERY", 0.0)
    steps: list[int] = []

    def power() -> Power:
        return Power(0.9 if len(steps) < 2 else 0.1, False)

    with Learner.open(bundle, state) as learner:
        report = learner.update(Budget(power=power), lambda progress: steps.append(progress.step), "train")
        assert report.stopped == "battery"
        assert len(steps) == 2
        assert learner.status()["updates"] == 1


def test_time_that_is_up_is_said(bundle: Path, state: Path) -> None:
    with Learner.open(bundle, state) as learner:
        assert learner.update(Budget(seconds=1e-6), method="train").stopped == "time"
        learner.rollback()
        assert learner.update(Budget(seconds=60), method="train").stopped == ""


def test_time_that_is_up_leaves_out_what_would_train_nothing(bundle: Path, state: Path) -> None:
    """Scores, masks and another closed form for no step at all took minutes on a slow board."""
    with Learner.open(bundle, state) as learner:
        report = learner.update(Budget(seconds=1e-6))
        assert report.accepted
        assert [(phase.phase, phase.steps) for phase in report.phases] == [("closed form", 0)]
        assert report.stopped == "time"
        learner.rollback()
        assert len(learner.update(Budget(seconds=60)).phases) == 2


def test_what_was_trained_in_time_gets_its_closed_form(bundle: Path, state: Path) -> None:
    manifest = toy.toy_manifest(6, toy.CLASSES)
    train, solve = manifest["schedules"]["train"]["phases"][0], manifest["schedules"]["closed-form"]["phases"][0]
    schedule = {**manifest["schedules"]["train"], "phases": [train, train, solve]}
    other = toy.toy_bundle(bundle.with_name("other.bundle"), schedules={"trained": schedule})
    with Learner.open(other, state.with_name("other")) as learner:
        learner.observe(toy.images("dark", 30), "dark")
        meters: list[Meter] = []

        def spend(progress: Any) -> None:
            meters[0].stopped = "time"

        real = Meter.__post_init__

        def remember(self: Meter) -> None:
            meters.append(self)
            real(self)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Meter, "__post_init__", remember)
            report = learner.update(on_progress=spend, method="trained")
        assert [(phase.phase, phase.steps) for phase in report.phases] == [("train", 1), ("closed form", 0)]


@pytest.mark.parametrize("rows", ["all", "new", "others", ["all"], 3.0])
def test_a_schedule_may_say_anything_of_its_rows(bundle: Path, state: Path, rows: Any) -> None:
    """What is not `all` means the new ones, in the closed form and in what it is foretold to take."""
    solve = {**toy.toy_manifest(6, toy.CLASSES)["schedules"]["closed-form"]["phases"][0], "refresh": True, "rows": rows}
    schedule = {"meaning": "x", "phases": [solve], "accept": {"max_old_loss": 1.0, "max_class_loss": 1.0}}
    other = toy.toy_bundle(bundle.with_name("other.bundle"), schedules={"odd": schedule})
    with Learner.open(other, state.with_name("other")) as learner:
        learner.observe(toy.images("dark", 30), "dark")
        assert learner.update(Budget(seconds=60), method="odd").accepted


@pytest.mark.parametrize("seconds", [120, 150, 200, 300])
def test_steps_leave_time_for_the_closed_form_of_what_they_trained(
    bundle: Path, state: Path, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    """By a clock that goes on by what each call of the program costs."""
    solve = toy.toy_manifest(6, toy.CLASSES)["schedules"]["closed-form"]["phases"][0]
    train = {"kind": "train", "rows": "all", "epochs": 50, "learning_rate": 0.05, "freeze": 0.5}
    schedule = {
        "meaning": "for tests",
        "phases": [solve, train, {**solve, "refresh": True}],
        "accept": {"max_old_loss": 1.0, "max_class_loss": 1.0},
    }
    other = toy.toy_bundle(bundle.with_name("other.bundle"), schedules={"trained": schedule})
    now, cost = [0.0], {"classify": 5.0, "step": 2.0, "score": 2.0, "solve": 10.0, "statistics": 0.5}
    run = machine.Machine.run

    def slowly(self: machine.Machine, signature: str, values: Any) -> Any:
        now[0] += cost.get(signature, 0.0)
        return run(self, signature, values)

    monkeypatch.setattr(machine.Machine, "run", slowly)
    monkeypatch.setattr(Meter, "seconds", property(lambda self: now[0]))
    with Learner.open(other, state.with_name("other")) as learner:
        learner.observe(toy.images("dark", 30), "dark")
        now[0] = 0.0
        report = learner.update(Budget(seconds=seconds), method="trained")
    assert report.stopped == "time"
    assert [phase.steps > 0 for phase in report.phases] == [False, True, False]
    assert seconds - 15 <= report.seconds <= seconds + 10


def test_threads_of_the_update(bundle: Path, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []

    def spy(bundle: Any, runtime: str, threads: int) -> Any:
        opened.append(threads)
        return toy.open_toy(bundle, runtime, threads)

    monkeypatch.setattr(machine, "open_program", spy)
    with Learner.open(bundle, state, threads=4) as learner:
        assert learner.update(Budget(threads=1)).accepted
        learner.rollback()
        assert learner.update(Budget(threads=4)).accepted
    assert opened == [4, 1]


@pytest.mark.parametrize(
    "wrong",
    [{"disk_mb": 0}, {"disk_mb": float("nan")}, {"threads": 0}, {"min_battery": 1.5}, {"min_battery": -0.1}],
    ids=str,
)
def test_budgets_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        Budget(**wrong)


def test_running_out_of_memory_changes_nothing(bundle: Path, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = content(state)

    def no_memory(self: Any, v: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(toy.ToyProgram, "_step", no_memory)
    with Learner.open(bundle, state) as learner, pytest.raises(CheckFailedError, match="ran out of memory; nothing"):
        learner.update(method="train")
    assert content(state) == before


def test_a_process_without_memory_loses_nothing(bundle: Path, state: Path) -> None:
    """A real limit: first the process dies in its linear algebra, then Python runs out of memory, then it will do."""
    code = (
        "import resource, sys, numpy, toy; toy.install()\n"
        "from pocketstep_device.errors import CheckFailedError\n"
        "from pocketstep_device.learner import Learner\n"
        "solve = toy.ToyProgram._solve\n"
        "toy.ToyProgram._solve = lambda self, v: (numpy.ones(8 * 2**20), solve(self, v))[1]  # 64 MiB\n"
        "with Learner.open(sys.argv[1], sys.argv[2]) as learner:\n"
        "    pages = int(open('/proc/self/statm').read().split()[0])\n"
        "    most = pages * resource.getpagesize() + int(sys.argv[3]) * 2**20\n"
        "    resource.setrlimit(resource.RLIMIT_AS, (most, most))\n"
        "    try:\n        print(learner.update(method='closed-form').accepted)\n"
        "    except CheckFailedError as error:\n        print(error)"
    )
    answers = []
    for extra in (16, 48, 600):
        command = [sys.executable, "-c", code, str(bundle), str(state), str(extra)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
        with Learner.open(bundle, state) as learner:
            found = learner.status()
        answers.append((done.stdout == "True\n", found["updates"], found["pending_samples"]))
    assert answers == [(False, 0, 30), (False, 0, 30), (True, 1, 0)]


def test_a_meter_asks_about_the_battery_only_now_and_then() -> None:
    asked: list[int] = []

    def power() -> Power:
        asked.append(1)
        return Power(1.0, False)

    meter = Meter(Budget(power=power))
    assert all(meter.has_time() for _ in range(1000))
    assert len(asked) <= 1


# The battery of a board


def test_reading_the_battery_of_linux(tmp_path: Path) -> None:
    with pytest.raises(MissingToolError, match="no battery"):
        read_power(tmp_path)
    supplies = {
        "AC": {"type": "Mains", "online": "1"},
        "BAT0": {"type": "Battery", "capacity": "37", "status": "Discharging"},
    }
    for name, files in supplies.items():
        (tmp_path / name).mkdir()
        for key, value in files.items():
            (tmp_path / name / key).write_text(value + "\n")
    assert read_power(tmp_path) == Power(0.37, False)
    (tmp_path / "BAT0" / "status").write_text("Charging\n")
    assert read_power(tmp_path) == Power(0.37, True)
