"""States that somebody made up, with right digests, and files that can't be read just now: nothing is lost."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy
from states import digest

from pocketstep_device.adoption import adopt
from pocketstep_device.errors import StateError
from pocketstep_device.learner import Learner
from pocketstep_device.state import _digest
from pocketstep_device.storage import FolderLock, read_regular
from pocketstep_device.tensors import Array, read_tensors, write_tensors

pytestmark = pytest.mark.usefixtures("toys")

NEW = "stripes"
NOBODY = 65534
Change = Callable[[dict[str, Array], dict[str, Any]], object]


@pytest.fixture
def bundle(memory_folder: Path) -> Path:
    return toy.toy_bundle(memory_folder / "toy.bundle")


@pytest.fixture
def state(bundle: Path, memory_folder: Path) -> Path:
    """A class learned by an update that can be rolled back, and images observed since."""
    with Learner.open(bundle, memory_folder / "state") as learner:
        learner.add_class(NEW)
        learner.observe(toy.images(NEW, 10), NEW)
        assert learner.update(method="closed-form").accepted
        learner.observe(toy.images("dark", 6, seed=1), "dark")
    return memory_folder / "state"


def snapshots(state: Path) -> list[Path]:
    return sorted(state.glob("snapshot-*"))


def forge(path: Path, change: Change) -> None:
    """Changes a snapshot's tensors and info, and makes its digest right again."""
    found, metadata = read_tensors(path.read_bytes(), "test")
    del metadata["sha256"]
    tensors, info = dict(found), json.loads(metadata["info"])
    change(tensors, info)
    metadata["info"] = json.dumps(info)
    path.write_bytes(write_tensors(tensors, {**metadata, "sha256": _digest(tensors, metadata)}))


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


FORGERIES: Mapping[str, Change] = {
    "no classes": lambda tensors, info: info.pop("classes"),
    "classes that are a number": lambda tensors, info: info.update(classes=3),
    "a class that moves the cursor": lambda tensors, info: info.update(classes=["dark", "bright", "\x1b[2J"]),
    "a class whose name is too long": lambda tensors, info: info.update(classes=["dark", "bright", "x" * 300]),
    "more classes than slots": lambda tensors, info: info.update(classes=[str(index) for index in range(7)]),
    "updates that are a text": lambda tensors, info: info.update(updates="1"),
    "more updates than there can be": lambda tensors, info: info.update(updates=10**400),
    "keep that is a number": lambda tensors, info: info.update(keep=1),
    "samples that are a number": lambda tensors, info: info.update(chunks=5),
    "the same samples many times": lambda tensors, info: info.update(chunks=info["chunks"] * 1000),
    "no mask": lambda tensors, info: tensors.pop("class_mask"),
    "a mask of another type": lambda tensors, info: tensors.update(class_mask=np.ones(6, np.float64)),
    "flags for other samples": lambda tensors, info: tensors.update({"samples.pending": np.ones(2, np.bool_)}),
    "no trained tensor": lambda tensors, info: tensors.pop("head.weight"),
}


@pytest.mark.parametrize("change", FORGERIES.values(), ids=FORGERIES)
def test_forged_states_are_refused(bundle: Path, state: Path, memory_folder: Path, change: Change) -> None:
    """By opening and by adopting, which must not write what can't be opened."""
    forge(snapshots(state)[-1], change)
    before = content(state)
    with pytest.raises(StateError):
        Learner.open(bundle, state)
    assert content(state) == before
    alike = toy.toy_bundle(memory_folder / "alike.bundle", name="alike")
    try:
        adopted = adopt(alike, state, method="closed-form")
    except StateError:
        assert content(state) == before
    else:  # only where the new bundle does not need what is missing
        assert adopted.how == "replay"
        Learner.open(alike, state).close()


@pytest.mark.parametrize("change", FORGERIES.values(), ids=FORGERIES)
def test_a_rollback_to_a_forged_state_changes_nothing(bundle: Path, state: Path, change: Change) -> None:
    with Learner.open(bundle, state) as learner:
        expected = digest(learner)
        forge(state / f"snapshot-{learner._info['before_update']:06d}.safetensors", change)
        before = content(state)
        with pytest.raises(StateError):
            learner.rollback()
        assert content(state) == before
        assert digest(learner) == expected
    with Learner.open(bundle, state) as learner:
        assert digest(learner) == expected


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOMEM, errno.EACCES, errno.EINTR])
def test_what_can_not_be_read_just_now_is_not_passed_over(
    bundle: Path, state: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Too many open files, say: an older state in its place would be saved over it."""
    before = content(state)
    for victim in (snapshots(state)[-1], min(state.glob("latents-*"))):
        with monkeypatch.context() as patch:
            _refuse_to_open(patch, victim, number)
            with pytest.raises(StateError, match=os.strerror(number)):
                Learner.open(bundle, state)
    assert content(state) == before


def test_a_sector_that_can_not_be_read_any_more_is_passed_over(
    bundle: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _refuse_to_open(monkeypatch, snapshots(state)[-1], errno.EIO)
    with Learner.open(bundle, state) as learner:
        assert "older state is used" in learner.notes[0]


def test_samples_of_a_snapshot_that_can_not_be_read_just_now_stay(
    bundle: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one before the update names them; a forgotten class removes them otherwise."""
    with Learner.open(bundle, state) as learner:
        named = {path.name for path in state.glob("latents-*")}
        with monkeypatch.context() as patch:
            _refuse_to_open(patch, snapshots(state)[-2], errno.EMFILE)
            learner.forget(NEW)
        assert named <= {path.name for path in state.glob("latents-*")}
        learner.observe(toy.images("dark", 5, seed=2), "dark")
        learner.observe(toy.images("dark", 5, seed=3), "dark")
        assert not named <= {path.name for path in state.glob("latents-*")}


def _refuse_to_open(patch: pytest.MonkeyPatch, victim: Path, number: int) -> None:
    real = os.open

    def refuse(path: Any, flags: int, mode: int = 0o777, **options: Any) -> int:
        if Path(path) == victim:
            raise OSError(number, os.strerror(number))
        return real(path, flags, mode, **options)

    patch.setattr(os, "open", refuse)


def test_memory_that_is_short_passes_nothing_over(bundle: Path, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr("pocketstep_device.storage.open_plain", refuse)
    with pytest.raises(StateError, match="does not fit into the memory"):
        Learner.open(bundle, state)


def test_a_snapshot_of_a_terabyte_is_not_read(bundle: Path, state: Path) -> None:
    with snapshots(state)[-1].open("r+b") as file:
        file.truncate(2**40)
    with Learner.open(bundle, state) as learner:
        assert "more than the" in learner.notes[0]


def test_the_last_number_is_not_passed(bundle: Path, state: Path) -> None:
    """The next one would have a name that nobody finds again."""
    junk = state / f"snapshot-{10**18 - 1}.safetensors"
    junk.write_bytes(b"junk")
    with Learner.open(bundle, state) as learner:
        before = digest(learner)
        with pytest.raises(StateError, match="Remove it"):
            learner.add_class("dots")
        assert digest(learner) == before
        junk.unlink()
        learner.add_class("dots")
    with Learner.open(bundle, state) as learner:
        assert "dots" in learner.classes


@pytest.mark.parametrize("what", ["pipe", "link"])
def test_pipes_and_links_in_the_place_of_files(memory_folder: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Put there after the look and before the opening, too: nothing waits for a writer, nothing is followed."""
    path, aside = memory_folder / "file", memory_folder / "aside"
    path.write_bytes(b"content")
    lstat = Path.lstat

    def swap(self: Path) -> os.stat_result:
        found = lstat(self)
        path.rename(aside)
        os.mkfifo(path) if what == "pipe" else path.symlink_to(aside)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Path, "lstat", swap)
        with pytest.raises(StateError, match=r"was replaced|can't be read"):
            read_regular(path, 100, "The file")
    with pytest.raises(StateError, match="no plain file"):
        read_regular(path, 100, "The file")
    (memory_folder / ".lock").symlink_to(memory_folder / "victim")
    with pytest.raises(StateError, match="can't be used"), FolderLock(memory_folder):
        pass
    assert not (memory_folder / "victim").exists()


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without root's powers, which no permission stops."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions of Unix")
def test_permissions_that_were_lost(bundle: Path, state: Path, memory_folder: Path) -> None:
    """Really: folder read-only, a file unreadable, and given back while the learner is open."""
    memory_folder.chmod(0o755)
    for path in (state, *state.iterdir()):
        os.chown(path, NOBODY if os.geteuid() == 0 else -1, -1)
    before = content(state)
    with as_nobody():
        with Learner.open(bundle, state) as learner:
            state.chmod(0o500)
            for attempt in (lambda: learner.add_class("dots"), lambda: learner.observe(_dark(), "dark")):
                with pytest.raises(StateError, match=r"Permission denied.*make its folder writable"):
                    attempt()
            assert "dots" not in learner.classes
            state.chmod(0o700)
            assert content(state) == before
            learner.add_class("dots")
        newest = snapshots(state)[-1]
        newest.chmod(0)
        with pytest.raises(StateError, match="Permission denied"):
            Learner.open(bundle, state)
        newest.chmod(0o600)
        (state / ".lock").chmod(0)
        with pytest.raises(StateError, match="can't be used"):
            Learner.open(bundle, state)
        (state / ".lock").chmod(0o600)
        with Learner.open(bundle, state) as learner:
            assert "dots" in learner.classes
            assert learner.notes == []


def _dark() -> Any:
    return toy.images("dark", 6, seed=9)
