"""Adding a learning method: a schedule is data of the bundle, and Python and Kotlin follow it alike.

``patient`` trains the head at a small rate before the closed form. `pocketstep/schedules.py` and the manifest's
``hyper`` show what a phase can have; a method that needs other arithmetic is a new input or signature
(`pocketstep/compile`), and a row of `bench accuracy` is one line in ``METHODS``.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import toy

from pocketstep_device import Learner

PATIENT = {
    "meaning": "the head at a small rate, half of it frozen by importance, then the closed form",
    "phases": [
        {"kind": "train", "name": "head", "rows": "all", "epochs": 4, "learning_rate": 0.02, "freeze": 0.5},
        {"kind": "solve", "name": "closed form", "shrinkage": 0.1},
    ],
    "accept": {"max_old_loss": 0.05, "max_class_loss": 0.5},
}


def test_a_schedule_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy.install(monkeypatch)
    bundle = toy.toy_bundle(tmp_path / "toy.bundle", schedules={"patient": PATIENT})
    with Learner.open(bundle, tmp_path / "state") as learner:
        learner.add_class("striped")
        learner.observe(toy.images("striped", 40), "striped")
        report = learner.update(method="patient")
        assert report.accepted
        assert [phase.phase for phase in report.phases if phase.phase != "before"] == ["head", "closed form"]
        assert learner.classify(toy.images("striped", 20, seed=1)).labels.count("striped") >= 18
