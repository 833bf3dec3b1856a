from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import toy

from pocketstep_device.budget import Meter
from pocketstep_device.judge import Verdict, judge
from pocketstep_device.learner import Learner
from pocketstep_device.steps import PATIENCE, Checks, Steps, Values


@dataclass
class Clock:
    """A meter whose steps take as long as the test says."""

    budget: float | None = None
    seconds: float = 0.0
    shares: list[float] = field(default_factory=list)

    @property
    def left(self) -> float | None:
        return None if self.budget is None else self.budget - self.seconds

    def walk(self, total: int, pace: float) -> Steps:
        """All steps that there is time for."""
        steps = Steps(cast(Meter, self), total)
        while steps.done < total and (self.left is None or self.left > 0):
            self.shares.append(steps.share)
            self.seconds += pace
            steps.take()
        return steps


@pytest.mark.parametrize("budget", [None, 50.0])
def test_with_time_enough_a_rate_falls_by_steps(budget: float | None) -> None:
    clock = Clock(budget)
    steps = clock.walk(400, 0.1)
    assert steps.done == 400
    np.testing.assert_allclose(clock.shares, np.arange(400) / 400, atol=1e-12)
    assert steps.rate == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("pace", [0.125, 0.375])
def test_without_it_falls_in_the_time_there_is(pace: float) -> None:
    clock = Clock(10.0)
    steps = clock.walk(400, pace)
    assert steps.done == int(np.ceil(10 / pace))
    assert clock.shares == sorted(clock.shares)
    assert clock.shares[0] == 0
    assert clock.shares[-1] > 0.95
    np.testing.assert_allclose(clock.shares, np.arange(steps.done) / steps.done, atol=0.05)


def test_a_device_that_becomes_slower_still_ends_low() -> None:
    clock = Clock(10.0)
    steps = Steps(cast(Meter, clock), 400)
    while clock.left is not None and clock.left > 0:
        before = steps.rate
        clock.seconds += 0.05 if steps.done < 100 else 0.5
        steps.take()
    assert 100 < steps.done < 130
    assert before < 0.05


class Judge:
    """Says one score after the other."""

    def __init__(self, *scores: float) -> None:
        self.scores, self.seen, self.said = list(scores), list[int](), list[float]()

    def __call__(self, values: Values) -> Verdict:
        self.seen.append(int(values["step"][0]))
        self.said.append(self.scores.pop(0))
        return Verdict(math.nan, math.nan, (self.said[-1], 0.0), 0, {})


def run(judge: Judge, count: int, shares: list[float]) -> tuple[int, list[int]]:
    checks = Checks(judge, count)
    for number, share in enumerate(shares, 1):
        values: dict[str, Any] = {"step": np.array([number])}
        checks.after(share, values)
        if checks.enough:
            break
    best, verdict = checks.best(values)
    assert verdict is None or verdict.score[0] == max(judge.said)
    return int(best["step"][0]), judge.seen


def test_checks_look_evenly_and_at_the_last_state() -> None:
    tenths = [number / 10 for number in range(1, 11)]
    assert run(Judge(1, 2, 3, 4, 5), 5, tenths) == (10, [2, 4, 6, 8, 10])
    assert run(Judge(1, 2), 2, tenths[:8]) == (8, [5, 8])  # the time was up
    assert run(Judge(2, 1), 2, tenths[:8]) == (5, [5, 8])
    assert run(Judge(), 0, tenths) == (10, [])


def test_an_update_judges_no_state_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a phase with checks says of the state that it ends with is not asked again."""
    toy.install(monkeypatch)
    train = {"kind": "train", "name": "t", "epochs": 5, "rows": "all", "learning_rate": 0.1, "checks": 3}
    solve = {"kind": "solve", "name": "closed form", "shrinkage": 0.05}
    schedule = {"meaning": "", "phases": [solve, train], "accept": {"max_old_loss": 1.0, "max_class_loss": 1.0}}
    bundle = toy.toy_bundle(tmp_path / "toy.bundle", schedules={"auto": schedule})
    seen: list[dict[str, Any]] = []  # the arrays are kept, so that no other one takes their place

    def judged(machine: Any, values: Values, samples: Any) -> Verdict:
        seen.append(dict(values))
        return judge(machine, values, samples)

    monkeypatch.setattr("pocketstep_device.update.judge", judged)
    with Learner.open(bundle, tmp_path / "state") as learner:
        learner.add_class("stripes")
        learner.observe(toy.images("stripes", 20), "stripes")
        report = learner.update()
    assert [phase.phase for phase in report.phases] == ["closed form", "t"]
    assert len(seen) >= 4
    assert len({tuple(sorted(map(id, values.values()))) for values in seen}) == len(seen)


def test_checks_have_enough_when_it_gets_worse() -> None:
    tenths = [number / 10 for number in range(1, 11)]
    best, seen = run(Judge(1, 3, 2, 2.5), 10, tenths)
    assert (best, len(seen)) == (2, 2 + PATIENCE)
