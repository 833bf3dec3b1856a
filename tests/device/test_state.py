from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pocketstep_device.errors import InputError, StateError
from pocketstep_device.state import Snapshot, StateStore, _digest
from pocketstep_device.storage import FolderLock, write_atomically
from pocketstep_device.tensors import read_tensors, write_tensors

BUNDLE = "b" * 64


def tensors(value: float) -> dict[str, Any]:
    return {"head": np.full((2, 3), value, np.float32), "count": np.array([value], np.int64)}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def assert_is(snapshot: Snapshot | None, value: float) -> None:
    assert snapshot is not None
    assert snapshot.info["value"] == value
    for name, array in tensors(value).items():
        np.testing.assert_array_equal(snapshot.tensors[name], array)


@pytest.fixture
def store(tmp_path: Path) -> StateStore:
    """Two snapshots, of values 1 and 2."""
    result = StateStore(tmp_path / "state", BUNDLE)
    assert result.load() is None
    for value in (1, 2):
        assert result.save(tensors(value), {"value": value}).version == value
    return result


@pytest.fixture
def folder(store: StateStore, tmp_path: Path) -> Path:
    return tmp_path / "state"


def again(folder: Path) -> StateStore:
    return StateStore(folder, BUNDLE)


def test_save_and_load(folder: Path) -> None:
    store = again(folder)
    assert_is(store.load(), 2)
    assert_is(store.load_version(1), 1)
    assert store.notes == []
    assert store.infos() == {1: {"value": 1}, 2: {"value": 2}}
    with pytest.raises(StateError):
        store.load_version(3)


def test_last_two_and_kept_ones_stay(store: StateStore, folder: Path) -> None:
    for value in range(3, 7):
        store.save(tensors(value), {"value": value, "keep": [1, 4]})
    assert sorted(store.infos()) == [1, 4, 5, 6]
    (folder / ".snapshot-000007.safetensors.tmp").write_bytes(b"cut")
    store.save(tensors(7), {"value": 7})
    assert names(folder) == ["snapshot-000006.safetensors", "snapshot-000007.safetensors"]


@pytest.mark.parametrize("keep", [1, [True], ["1"]])
def test_wrong_keep(store: StateStore, keep: Any) -> None:
    with pytest.raises(InputError, match="keep"):
        store.save(tensors(3), {"keep": keep})


def test_unsavable_content_writes_nothing(store: StateStore, folder: Path) -> None:
    before = names(folder)
    for bad in ({"a": np.array([np.nan])}, {"a": np.array([{}], object)}, {"a": np.zeros(1, np.complex64)}):
        with pytest.raises(InputError):
            store.save(bad, {})
    for info in ({"a": object()}, {"a": float("nan")}):
        with pytest.raises(InputError, match="finite JSON"):
            store.save(tensors(3), info)
    assert names(folder) == before


def test_damaged_newest_falls_back_and_stays_recoverable(folder: Path) -> None:
    newest = folder / "snapshot-000002.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    store = again(folder)
    assert_is(store.load(), 1)
    assert len(store.notes) == 1
    assert "snapshot-000002" in store.notes[0]
    assert "older state" in store.notes[0]
    assert store.save(tensors(3), {"value": 3}).version == 3
    assert names(folder) == ["snapshot-000001.safetensors", "snapshot-000003.safetensors"]
    assert_is(again(folder).load(), 3)


def test_every_changed_byte_falls_back_or_changes_nothing(folder: Path) -> None:
    newest = folder / "snapshot-000002.safetensors"
    good = newest.read_bytes()
    fallbacks = 0
    for position in range(len(good)):
        bad = bytearray(good)
        bad[position] ^= 1 << (position % 8)
        newest.write_bytes(bad)
        store = again(folder)
        snapshot = store.load()
        assert_is(snapshot, 1 if store.notes else 2)
        fallbacks += len(store.notes)
    assert fallbacks > len(good) - 8  # only the header's padding may change


def test_a_state_that_may_not_be_read_is_not_passed_over(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be intact: an older one in its place would be saved over it."""
    lstat = Path.lstat

    def refuse(self: Path) -> os.stat_result:
        if "000002" in self.name:
            raise PermissionError(errno.EACCES, "Permission denied")
        return lstat(self)

    monkeypatch.setattr(Path, "lstat", refuse)
    with pytest.raises(StateError, match=r"000002\S+ can't be read \(Permission denied\)"):
        again(folder).load()


def test_a_state_of_another_bundle_is_loaded_on_demand(folder: Path) -> None:
    other = StateStore(folder, "c" * 64)
    snapshot = other.load(any_bundle=True)
    assert_is(snapshot, 2)
    assert snapshot is not None
    assert snapshot.bundle == BUNDLE
    other.save(tensors(3), {"value": 3})
    assert sorted(other.infos()) == [2, 3]
    assert_is(StateStore(folder, "c" * 64).load(), 3)
    with pytest.raises(StateError, match="belongs to another bundle"):
        again(folder).load()


def test_all_damaged(folder: Path) -> None:
    for path in folder.iterdir():
        path.write_bytes(b"")
    with pytest.raises(StateError, match="Every saved state"):
        again(folder).load()
    assert again(folder).infos() == {}


def test_renamed_snapshot_is_not_trusted(folder: Path) -> None:
    (folder / "snapshot-000001.safetensors").rename(folder / "snapshot-000009.safetensors")
    store = again(folder)
    assert_is(store.load(), 2)
    assert "was renamed" in store.notes[0]


def test_link_is_not_followed(folder: Path, tmp_path: Path) -> None:
    newest = folder / "snapshot-000002.safetensors"
    newest.rename(tmp_path / "elsewhere")
    newest.symlink_to(tmp_path / "elsewhere")
    assert_is(again(folder).load(), 1)


def test_other_bundle(folder: Path) -> None:
    with pytest.raises(StateError, match="belongs to another bundle"):
        StateStore(folder, "c" * 64).load()


def rewrite(path: Path, **changes: str) -> None:
    """Changes a snapshot's metadata and makes its digest right again."""
    arrays, metadata = read_tensors(path.read_bytes(), "test")
    del metadata["sha256"]
    metadata.update(changes)
    path.write_bytes(write_tensors(arrays, {**metadata, "sha256": _digest(arrays, metadata)}))


def test_newer_format(folder: Path) -> None:
    rewrite(folder / "snapshot-000002.safetensors", version="2")
    with pytest.raises(StateError, match="saved by a newer pocketstep"):
        again(folder).load()


@pytest.mark.parametrize("change", [{"format": "x"}, {"version": "one"}, {"info": "[]"}, {"info": "{"}])
def test_other_content_is_damage(folder: Path, change: dict[str, str]) -> None:
    rewrite(folder / "snapshot-000002.safetensors", **change)
    assert_is(again(folder).load(), 1)


class Interruption:
    """Counts the calls of some functions of ``os`` and raises at one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
        self.calls, self.fail_at, self.error = 0, 10**9, error
        for name in ("open", "write", "fsync", "replace", "unlink"):
            monkeypatch.setattr(os, name, self.wrap(getattr(os, name)))

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            self.calls += 1
            if self.calls == self.fail_at:
                raise self.error
            return function(*args, **options)

        return call


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_interrupted_save_leaves_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    interruption = Interruption(monkeypatch, error)
    outcomes = []
    for index in range(1, 20):
        folder = tmp_path / str(index)
        interruption.fail_at = 10**9
        store = again(folder)
        store.save(tensors(1), {"value": 1})
        interruption.calls, interruption.fail_at = 0, index
        try:
            store.save(tensors(2), {"value": 2})
            outcomes.append("saved")
        except (StateError, KeyboardInterrupt):
            outcomes.append("failed")
        reached = interruption.calls >= index
        interruption.fail_at = 10**9
        survivor = again(folder)
        snapshot = survivor.load()
        assert snapshot is not None
        assert_is(snapshot, snapshot.version)
        assert survivor.notes == []
        assert outcomes[-1] == "failed" or snapshot.version == 2
        survivor.save(tensors(9), {"value": 9})
        assert not list(folder.glob(".*.tmp"))
        assert_is(again(folder).load(), 9)
        if not reached:
            break
    assert outcomes.count("failed") >= 5
    assert outcomes[-1] == "saved"


def test_full_disk_is_named_and_leaves_no_temporary(
    store: StateStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = names(folder)
    with monkeypatch.context() as patch:
        Interruption(patch, OSError(errno.ENOSPC, "No space left on device")).fail_at = 3
        with pytest.raises(StateError, match=r"snapshot-000003\S+ can't be written \(No space left .* Free some"):
            store.save(tensors(3), {"value": 3})
    assert names(folder) == before


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:3]))
    write_atomically(tmp_path / "file", b"0123456789")
    assert (tmp_path / "file").read_bytes() == b"0123456789"


def test_folder_that_cannot_be_flushed_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def refuse_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    write_atomically(tmp_path / "file", b"x")
    assert (tmp_path / "file").read_bytes() == b"x"


def test_planted_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"safe")
    (tmp_path / ".file.tmp").symlink_to(tmp_path / "victim")
    write_atomically(tmp_path / "file", b"x")
    assert (tmp_path / "victim").read_bytes() == b"safe"


def test_unwritable_places(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(StateError, match="can't be written"):
        write_atomically(tmp_path / "no" / "file", b"")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StateError, match="can't be made"):
        StateStore(tmp_path / "file", BUNDLE)
    with pytest.raises(StateError, match="can't be used"), FolderLock(tmp_path / "file"):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder(folder: Path) -> None:
    folder.chmod(0o500)
    try:
        store = again(folder)
        assert_is(store.load(), 2)
        with pytest.raises(StateError, match="make its folder writable"):
            store.save(tensors(3), {"value": 3})
    finally:
        folder.chmod(0o700)


def test_read_only_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Any, flags: int, mode: int = 0o777) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "open", refuse)
    store = again(folder)
    with pytest.raises(StateError, match="Read-only file system"):
        store.save(tensors(3), {"value": 3})
    with pytest.raises(StateError, match="Read-only file system"), FolderLock(folder):
        pass
    monkeypatch.undo()
    assert_is(again(folder).load(), 2)


def test_old_snapshot_that_cannot_be_removed_is_noted(store: StateStore, monkeypatch: pytest.MonkeyPatch) -> None:
    unlink = Path.unlink

    def refuse(self: Path, missing_ok: bool = False) -> None:
        if "000001" in self.name:
            raise OSError(errno.EPERM, "Operation not permitted")
        unlink(self, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    assert store.save(tensors(3), {"value": 3}).version == 3
    assert "could not be removed" in store.notes[0]


def test_lock_keeps_others_out(folder: Path) -> None:
    with FolderLock(folder), pytest.raises(StateError, match=f"{folder} is in use"), FolderLock(folder):
        pass
    with FolderLock(folder):
        pass


def test_lock_keeps_other_processes_out_until_they_end(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pocketstep_device.storage import FolderLock\n"
        "FolderLock(Path(sys.argv[1])).__enter__(); print('held', flush=True); sys.stdin.read()"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code, str(folder)], stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(StateError, match="in use by another process"), FolderLock(folder):
            pass
        other.kill()
        other.wait()
    with FolderLock(folder):
        pass
