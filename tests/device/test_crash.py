"""Every call that changes a file, of every operation, interrupted in turn: what is found then is the old or the new."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import toy
from disk import DATA_LOST, OUTCOMES, Disk, PowerCut
from states import digest, digest_on_disk

from pocketstep_device import storage
from pocketstep_device.adoption import adopt
from pocketstep_device.errors import StateError
from pocketstep_device.learner import Learner

pytestmark = pytest.mark.usefixtures("toys")

SMALL_MB = 0.0065  # room for a hundred toy samples: one more observation compacts the store
NEW = "stripes"


@dataclass(frozen=True)
class World:
    """Three bundles and a state that has been through an update, with more images observed since."""

    bundle: Path
    same_plan: Path
    other_plan: Path
    state: Path

    @property
    def bundles(self) -> tuple[Path, Path, Path]:
        return self.bundle, self.same_plan, self.other_plan


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    made = World(
        toy.toy_bundle(folder / "a.bundle"),
        toy.toy_bundle(folder / "b.bundle", name="toy again"),
        toy.toy_bundle(folder / "c.bundle", suffix=2),
        folder / "state",
    )
    with pytest.MonkeyPatch.context() as patch:
        toy.install(patch)
        with Learner.open(made.bundle, made.state) as learner:
            learner.add_class(NEW)
            learner.observe(toy.images(NEW, 30), NEW)
            assert learner.update().accepted
            learner.observe(toy.images(NEW, 15, seed=1), NEW)
            learner.observe(toy.images("dark", 10, seed=1), "dark")
    return made


def _learner(world: World, state: Path, use: Callable[[Learner], object], store_mb: float = 64.0) -> None:
    with Learner.open(world.bundle, state, store_mb=store_mb) as learner:
        use(learner)


OPERATIONS: dict[str, Callable[[World, Path], object]] = {
    "add_class": lambda world, state: _learner(world, state, lambda learner: learner.add_class("dots")),
    "observe": lambda world, state: _learner(
        world, state, lambda learner: learner.observe(toy.images("bright", 9, 2), "bright")
    ),
    "observe, compacting": lambda world, state: _learner(
        world, state, lambda learner: learner.observe(toy.images("bright", 90, 2), "bright"), SMALL_MB
    ),
    "update": lambda world, state: _learner(world, state, lambda learner: learner.update()),
    "rollback": lambda world, state: _learner(world, state, lambda learner: learner.rollback()),
    "forget": lambda world, state: _learner(world, state, lambda learner: learner.forget(NEW)),
    "adopt, plans agree": lambda world, state: adopt(world.same_plan, state),
    "adopt, plans differ": lambda world, state: adopt(world.other_plan, state),
}


def copy_of(folder: Path, target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder, target)
    return target


@pytest.mark.parametrize("operation", OPERATIONS)
def test_power_cut_at_every_call(
    world: World, memory_folder: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    """Three things that a file system may make of it, each time; and the survivor goes on."""
    run, disk = OPERATIONS[operation], Disk(monkeypatch)
    done = copy_of(world.state, memory_folder / "done")
    run(world, done)
    old, new = (digest_on_disk(folder, *world.bundles) for folder in (world.state, done))
    assert old != new
    found, call, reached = set(), 0, True
    while reached:
        call += 1
        for outcome in OUTCOMES:
            state = copy_of(world.state, memory_folder / "state")
            disk.cut_power_at(call)
            try:
                run(world, state)
                reached = False
            except PowerCut:
                disk.lose(outcome)
            disk.work()
            survivor = digest_on_disk(state, *world.bundles)
            assert survivor in (old, new), f"{operation}, call {call}: {outcome}"
            found.add(survivor)
            _goes_on(world, state)
    assert call > 5
    assert found == {old, new}


def _goes_on(world: World, state: Path) -> None:
    """Whoever survived can be written to, and leaves nothing behind."""
    for bundle in world.bundles:
        try:
            learner = Learner.open(bundle, state)
        except StateError:
            continue
        with learner:
            learner.observe(toy.images("bright", 3, seed=9), "bright")
            expected = digest(learner)
        assert digest_on_disk(state, bundle) == expected
        assert not list(state.glob(".*.tmp"))
        return
    raise AssertionError("no bundle opens the state")


@pytest.mark.parametrize("failure", ["fill_up_at", "fail_once_at"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_disk_that_fails_at_every_call(
    world: World, memory_folder: Path, monkeypatch: pytest.MonkeyPatch, operation: str, failure: str
) -> None:
    """The process lives on: a clear error and the old state, or no error and the new one."""
    run, disk = OPERATIONS[operation], Disk(monkeypatch)
    done = copy_of(world.state, memory_folder / "done")
    run(world, done)
    old, new = (digest_on_disk(folder, *world.bundles) for folder in (world.state, done))
    call, reached = 0, True
    errors: list[str] = []
    while reached:
        call += 1
        state = copy_of(world.state, memory_folder / "state")
        getattr(disk, failure)(call)
        try:
            run(world, state)
            reached, wanted = disk.failed, (new,)
        except StateError as reason:
            wanted, errors = (old, new), [*errors, str(reason)]
        disk.work()
        assert digest_on_disk(state, *world.bundles) in wanted, f"{operation}, call {call}"
    assert len(errors) >= 4
    assert all("can't be written" in error for error in errors)


def test_a_learner_goes_on_after_a_full_disk(
    world: World, memory_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one process: what failed changed nothing in memory either, and works when there is room again."""
    disk, state = Disk(monkeypatch), copy_of(world.state, memory_folder / "state")
    with Learner.open(world.bundle, state) as learner:
        before = digest(learner)
        disk.fill_up_at(1)
        for use in (
            lambda: learner.add_class("dots"),
            lambda: learner.observe(toy.images(NEW, 5, seed=3), NEW),
            lambda: learner.update(),
            lambda: learner.rollback(),
        ):
            with pytest.raises(StateError, match="No space left on device"):
                use()
            assert digest(learner) == before
        disk.work()
        learner.add_class("dots")
        assert learner.update().accepted
        after = digest(learner)
    assert digest_on_disk(state, world.bundle) == after


def test_the_tests_notice_a_writer_that_flushes_nothing(
    world: World, memory_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rename without a flush of the file is torn by some file systems: the disk above shows it."""

    def naive(path: Path, data: bytes) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.write(descriptor, data)
        os.close(descriptor)

    disk, torn = Disk(monkeypatch), 0
    monkeypatch.setattr(storage, "_write_new", naive)
    for call in range(1, 12):
        state = copy_of(world.state, memory_folder / "state")
        disk.cut_power_at(call)
        with suppress(PowerCut):
            _learner(world, state, lambda learner: learner.add_class("dots"))
        disk.lose(DATA_LOST)
        with Learner.open(world.bundle, state) as learner:
            torn += bool(learner.notes)
    assert torn > 0
