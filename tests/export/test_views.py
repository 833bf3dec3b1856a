"""Mirror images and random features in a bundle that keeps no image, on both runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nine_digits import SHAPE, trained

from pocketstep_device import Learner
from pocketstep_device.bundle import Bundle
from pocketstep_device.golden import TOLERANCE, replay
from pocketstep_device.machine import Machine


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory, digits: Any) -> Path:
    """Nine digits, no replay, nothing held back; a network of three epochs."""
    from pocketstep.assemble import build_bundle
    from pocketstep.export.run import Exporters
    from pocketstep.request import Request

    net, train, normalisation = trained(digits)
    request = Request(
        "bare", train.classes, SHAPE, *normalisation, "centre", "group1", spare_classes=2, expansion=256,
        mirrored=True, replay_per_class=0,
    )  # fmt: skip
    target = tmp_path_factory.mktemp("bare") / "bare.bundle"
    with Exporters(["litert", "executorch"]) as exporters:
        build_bundle(net, net, request, train, None, target, exporters, lambda stage: None)
    return target


@pytest.mark.parametrize("runtime", ["litert", "executorch"])
def test_golden_trace(bare: Path, runtime: str) -> None:
    bundle = Bundle.open(bare)
    assert bundle.manifest.latent.shape[0] == 2 * bundle.manifest.latent.shape[1]
    worst = max(replay(bundle, Machine(bundle, runtime, 2)), key=lambda c: c.worst)
    assert worst.worst <= TOLERANCE, f"call {worst.index} ({worst.signature}): {worst.errors}"


def test_auto_trains_nothing_that_it_cannot_judge(bare: Path, tmp_path: Path, digits: Any) -> None:
    """Nothing would show what training costs the nine digits: the closed form alone, which knows all ten well."""
    test = digits[1]
    with Learner.open(bare, tmp_path / "state") as learner:
        learner.add_class("9")
        learner.observe(digits[0].images[digits[0].labels == 9][:100], "9")
        report = learner.update()
        found = np.array(learner.classify(test.images).labels)
    assert [phase.phase for phase in report.phases] == ["closed form"]
    assert "too few known classes have held-back samples" in report.reason
    right = found == np.array(test.classes)[test.labels]
    assert min(right[test.labels == 9].mean(), right[test.labels != 9].mean()) > 0.85
