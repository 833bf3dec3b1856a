"""Critical paths in a bundle, on both runtimes: grouped products, rates a path, devices that carry only theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import path_bundle
import pytest

from pocketstep.federate.next_bundle import initial_parts, state_of
from pocketstep_device import Learner
from pocketstep_device.bundle import Bundle
from pocketstep_device.exchange import class_of, export_parts, import_parts
from pocketstep_device.golden import TOLERANCE, replay
from pocketstep_device.machine import Machine
from pocketstep_device.masks import owners

pytestmark = pytest.mark.slow  # two bundles are exported

NEW = "9"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Any]:
    return path_bundle.both(tmp_path_factory.mktemp("paths"), "litert", "executorch")


@pytest.mark.parametrize("runtime", ["litert", "executorch"])
@pytest.mark.parametrize("which", [0, 1], ids=["whole", "carried"])
def test_golden_trace(made: tuple[Path, Path, Any], which: int, runtime: str) -> None:
    bundle = Bundle.open(made[which])
    worst = max(replay(bundle, Machine(bundle, runtime, 2)), key=lambda c: c.worst)
    assert worst.worst <= TOLERANCE, f"call {worst.index} ({worst.signature}): {worst.errors}"
    grouped = [p for p in bundle.manifest.plan.parameters if p.name == "group3.0.conv2.weight"]
    assert grouped[0].role == "full"
    if runtime == "executorch":
        delegated = bundle.manifest.runtimes[runtime].delegated
        assert delegated["step.outside"] == 0, delegated


def test_a_device_carries_only_its_paths(made: tuple[Path, Path, Any]) -> None:
    whole, part = (Bundle.open(path).manifest for path in made[:2])
    assert part.task.classes == path_bundle.CARRIED
    assert {p.name for p in part.plan.paths} == {p.name for p in whole.plan.paths}
    sizes = [{s.name: int(np.prod(s.shape)) for s in m.state if s.kind == "parameter"} for m in (whole, part)]
    share = part.task.slots / whole.task.slots
    assert all(sizes[1][n] <= sizes[0][n] * share for n in sizes[0])


def test_a_new_class_learns_in_its_own_path_ten_times_faster(made: tuple[Path, Path, Any], tmp_path: Path) -> None:
    with Learner.open(made[1], tmp_path / "state") as learner:
        before = {n: v.copy() for n, v in learner._values.items()}
        images = made[2].train.select([NEW]).images
        learner.add_class(NEW)
        learner.observe(images[:60], NEW)
        asked: dict[str, Any] = {}
        run = learner._machine.run

        def spy(signature: str, values: Any) -> Any:
            if signature == "step":
                asked.update(values)
            return run(signature, values)

        learner._machine.run = spy  # type: ignore[method-assign]
        learner.update(method="replay")  # whatever the check says: three epochs of training leave little to lose
        slot = learner.classes.index(NEW)
        test = made[2].test.select([*path_bundle.CARRIED, NEW])
        found = np.array(learner.classify(test.images).labels)
        assert (found == np.array(test.classes)[test.labels]).mean() > 0.7
        for name in {p.name for p in learner.manifest.plan.paths}:
            owner = owners([p for p in learner.manifest.plan.paths if p.name == name], before[name].shape)
            assert owner is not None
            assert set(asked[f"mask.{name}"][owner == slot].ravel()) == {10.0}, name
            assert set(asked[f"mask.{name}"][owner == 0].ravel()) == {1.0}, name
            assert not learner._values[name][owner < 0].any(), name  # nothing grows between two paths
            assert np.abs(learner._values[name] - before[name])[owner == slot].max() > 0, name


def test_a_carried_part_goes_to_the_whole_network_and_back(made: tuple[Path, Path, Any], tmp_path: Path) -> None:
    """What a device with three paths sends lies in the whole's places of these classes; others' parts it leaves out."""
    whole = Bundle.open(made[0])
    parts = initial_parts(whole)
    with Learner.open(made[1], tmp_path / "state") as learner:
        sent = export_parts(learner)
        assert {class_of(name) for name in sent} == set(path_bundle.CARRIED)
        assert all(np.array_equal(part, parts[name]) for name, part in sent.items())  # the cut changed none of them
        taken = import_parts(learner, {name: part + 1 for name, part in parts.items()})
        assert set(taken) == set(sent)
        state, classes = state_of(whole, export_parts(learner))
    assert classes == list(whole.manifest.task.classes)
    before, _ = whole.tensors("state.safetensors")
    moved = np.abs(state["head.bias"] - before["head.bias"]) > 0.5
    assert {name for name, is_moved in zip(classes, moved, strict=False) if is_moved} == set(path_bundle.CARRIED)
