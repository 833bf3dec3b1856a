"""The optimiser's state goes on: from step to step, from update to update, over restarts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import toy

from pocketstep_device.learner import Learner

pytestmark = pytest.mark.usefixtures("toys")

NEW = "stripes"
MOMENTUM = "momentum.head.weight"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return toy.toy_bundle(tmp_path / "toy.bundle")


def first_update(learner: Learner) -> None:
    learner.add_class(NEW)
    learner.observe(toy.images(NEW, 30), NEW)
    assert learner.update(method="train").accepted


def second_update(learner: Learner) -> dict[str, toy.Array]:
    learner.observe(toy.images(NEW, 20, seed=5), NEW)
    assert learner.update(method="train").accepted
    return {name: np.array(value) for name, value in learner.values.items()}


def test_a_restart_between_two_updates_changes_nothing(bundle: Path, tmp_path: Path) -> None:
    with Learner.open(bundle, tmp_path / "at once") as learner:
        first_update(learner)
        momentum = np.array(learner.values[MOMENTUM])
        at_once = second_update(learner)
    assert np.abs(momentum).max() > 0
    with Learner.open(bundle, tmp_path / "state") as learner:
        first_update(learner)
    with Learner.open(bundle, tmp_path / "state") as learner:
        np.testing.assert_array_equal(learner.values[MOMENTUM], momentum)
        restarted = second_update(learner)
    assert restarted.keys() == at_once.keys()
    for name, value in at_once.items():
        np.testing.assert_array_equal(restarted[name], value, err_msg=name)


def test_it_matters(bundle: Path, tmp_path: Path) -> None:
    """Else a momentum that was lost would not be seen above."""
    ends = []
    for kept in (True, False):
        with Learner.open(bundle, tmp_path / str(kept)) as learner:
            first_update(learner)
            if not kept:
                learner.values[MOMENTUM][:] = 0
            ends.append(second_update(learner)["head.weight"])
    assert np.abs(ends[0] - ends[1]).max() > 1e-4
