"""CsKO's parts in a bundle: projections, prototypes and channel selection, on both runtimes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nine_digits import SHAPE, trained

from pocketstep_device import Learner
from pocketstep_device.bundle import Bundle
from pocketstep_device.golden import TOLERANCE, replay
from pocketstep_device.machine import Machine

NEW = "9"


@pytest.fixture(scope="module")
def protected(tmp_path_factory: pytest.TempPathFactory, digits: Any) -> Path:
    """Nine digits, every loss, Adam, projections; a network of one epoch."""
    from pocketstep.assemble import build_bundle
    from pocketstep.compile.options import LOSSES, StepOptions
    from pocketstep.export.run import Exporters
    from pocketstep.request import Request

    net, train, normalisation = trained(digits)
    step = StepOptions(optimiser="adam", losses=LOSSES, projection="matrix", clip=True)
    request = Request("protected", train.classes, SHAPE, *normalisation, "centre", "group1", spare_classes=2, step=step)
    request = replace(request, replay_per_class=8, directions=8)  # few: each is a sweep to export
    target = tmp_path_factory.mktemp("protected") / "protected.bundle"
    with Exporters(["litert", "executorch"]) as exporters:
        build_bundle(net, net, request, train, train.per_class(3, 1), target, exporters, lambda stage: None)
    return target


@pytest.mark.parametrize("runtime", ["litert", "executorch"])
def test_golden_trace(protected: Path, runtime: str) -> None:
    bundle = Bundle.open(protected)
    calls = replay(bundle, Machine(bundle, runtime, 2))
    assert [c.signature for c in calls].count("project") == 2  # soft and hard
    worst = max(calls, key=lambda c: c.worst)
    assert worst.worst <= TOLERANCE, f"call {worst.index} ({worst.signature}): {worst.errors}"
    delegated = bundle.manifest.runtimes[runtime].delegated
    print(runtime, f"{worst.worst:.1e}", delegated)


@pytest.mark.parametrize("method", ["csko", "soft-projection", "selection", "prototypes"])
def test_protected_updates_forget_less(protected: Path, tmp_path: Path, digits: Any, method: str) -> None:
    """Than plain fine-tuning on the same images, from the same start; and what protects goes on with the new class."""
    test = digits[1].select(range(9))
    new = digits[0].images[digits[0].labels == 9][:60]

    def old_accuracy(schedule: str) -> tuple[float, Learner]:
        learner = Learner.open(protected, tmp_path / schedule)
        learner.add_class(NEW)
        learner.observe(new, NEW)
        learner.update(method=schedule)
        found = np.array(learner.classify(test.images).labels)
        names = np.array(test.classes)[test.labels]
        return float((found == names).mean()), learner

    plain, other = old_accuracy("fine-tune")
    other.close()
    kept, learner = old_accuracy(method)
    assert kept >= plain if method == "selection" else kept > plain + 0.05
    assert learner._values["prototype_count"][9] > 0
    assert all(np.trace(v) > 0 for n, v in learner._values.items() if n.startswith("covariance."))
    learner.close()
