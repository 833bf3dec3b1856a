from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import LATENT, SLOTS, assert_same, fake_samples, make_store

from pocketstep_device.errors import InputError, StateError
from pocketstep_device.replay import Chunk
from pocketstep_device.samples import Samples
from pocketstep_device.state import StateStore
from pocketstep_device.tensors import read_tensors, write_tensors


def test_append_and_load(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    parts = [fake_samples(7, 1), fake_samples(1, 2), fake_samples(12, 3)]
    chunks = [chunk for part in parts for chunk in store.append(part)]
    samples = Samples.concat(parts)
    assert_same(make_store(tmp_path).load(chunks, samples.flags()), samples)
    assert store.append(Samples.empty(LATENT, SLOTS)) == []
    assert_same(store.load([], {}), Samples.empty(LATENT, SLOTS))
    for chunk in chunks:
        assert chunk.name == f"latents-{chunk.sha256[:12]}.safetensors"
        assert hashlib.sha256((tmp_path / chunk.name).read_bytes()).hexdigest() == chunk.sha256


def test_flags_live_in_the_snapshot(tmp_path: Path) -> None:
    samples = fake_samples(10)
    chunks = make_store(tmp_path).append(samples)
    updated = dataclasses.replace(samples, pending=np.zeros(10, bool), held_back=~samples.held_back)
    state = StateStore(tmp_path, "b" * 64)
    state.save(updated.flags(), {"chunks": [chunk.to_info() for chunk in chunks]})
    snapshot = state.load()
    assert snapshot is not None
    named = [Chunk.from_info(value) for value in snapshot.info["chunks"]]
    assert named == chunks
    assert_same(make_store(tmp_path).load(named, snapshot.tensors), updated)
    assert make_store(tmp_path).append(updated) == chunks  # the file does not depend on the flags


def test_crash_between_chunk_and_snapshot_leaves_the_old_state(tmp_path: Path) -> None:
    state, store = StateStore(tmp_path, "b" * 64), make_store(tmp_path)
    samples = fake_samples(5)
    chunks = store.append(samples)
    state.save(samples.flags(), {"chunks": [chunk.to_info() for chunk in chunks]})
    store.append(fake_samples(5, 1))  # and here the power goes
    snapshot = StateStore(tmp_path, "b" * 64).load()
    assert snapshot is not None
    assert_same(make_store(tmp_path).load(chunks, snapshot.tensors), samples)
    (tmp_path / ".latents-0123456789ab.safetensors.tmp").write_bytes(b"cut")
    make_store(tmp_path).collect_garbage(chunks)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([chunks[0].name, "snapshot-000001.safetensors"])


def test_garbage_that_cannot_be_removed_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(tmp_path)
    (chunk,) = store.append(fake_samples(5))

    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        store.collect_garbage([])
    assert (tmp_path / chunk.name).exists()
    store.collect_garbage([])
    assert not (tmp_path / chunk.name).exists()


def test_every_changed_byte_is_noticed(tmp_path: Path) -> None:
    store, samples = make_store(tmp_path), fake_samples(4)
    chunks = store.append(samples)
    path = tmp_path / chunks[0].name
    good = path.read_bytes()
    for position in range(0, len(good), 7):
        bad = bytearray(good)
        bad[position] ^= 0x10
        path.write_bytes(bad)
        with pytest.raises(StateError, match=path.name):
            store.load(chunks, samples.flags())
    for content in (good[:-1], b"", good + bytes(10_000)):
        path.write_bytes(content)
        with pytest.raises(StateError, match=path.name):
            store.load(chunks, samples.flags())
    path.unlink()
    with pytest.raises(StateError, match="can't be read"):
        store.load(chunks, samples.flags())
    with pytest.raises(StateError, match="can't be read"):
        store.over_limit(chunks)
    path.symlink_to("/dev/zero")
    with pytest.raises(StateError, match="link"):
        store.load(chunks, samples.flags())


def replant(folder: Path, tensors: dict[str, Any], count: int, version: str = "1") -> list[Chunk]:
    """A chunk of any content with the right digest, as a hostile or newer writer could make."""
    data = write_tensors(tensors, {"format": "pocketstep-latents", "version": version})
    sha256 = hashlib.sha256(data).hexdigest()
    chunk = Chunk(f"latents-{sha256[:12]}.safetensors", sha256, count)
    (folder / chunk.name).write_bytes(data)
    return [chunk]


def test_chunks_of_other_content_are_refused(tmp_path: Path) -> None:
    store, samples = make_store(tmp_path), fake_samples(4)
    (chunk,) = store.append(samples)
    good = read_tensors((tmp_path / chunk.name).read_bytes(), "test")[0]
    changes: list[dict[str, Any]] = [
        {"labels": np.full(4, SLOTS)},
        {"labels": np.full(4, -1)},
        {"labels": np.zeros(3, np.int64)},
        {"labels": np.array(1)},
        {"latents": np.zeros((4, 9, 9, 9), np.int8)},
        {"latents": good["latents"].astype(np.uint8)},
        {"origin": np.full(4, 2, np.uint8)},
        {"has_soft": np.ones(4, np.uint8)},
        {"has_soft": np.ones(4, bool)},
        {"has_soft": np.array(True), "soft_rows": np.zeros((1, SLOTS), np.float32)},
        {"soft_rows": np.zeros((2, SLOTS + 1), np.float32)},
        {"more": np.zeros(1)},
    ]
    for change in changes:
        with pytest.raises(StateError, match="don't fit"):
            store.load(replant(tmp_path, {**good, **change}, 4), samples.flags())
    with pytest.raises(StateError, match="another version"):
        store.load(replant(tmp_path, good, 4, version="2"), samples.flags())
    with pytest.raises(StateError, match=r"are 4, not 3|don't fit"):
        store.load(replant(tmp_path, good, 3), fake_samples(3).flags())


def test_flags_must_belong_to_the_chunks(tmp_path: Path) -> None:
    store, samples = make_store(tmp_path), fake_samples(4)
    chunks = store.append(samples)
    wrong: list[dict[str, Any]] = [
        {},
        fake_samples(5).flags(),
        {**samples.flags(), "samples.pending": np.zeros(4, np.int8)},
    ]
    for flags in wrong:
        with pytest.raises(StateError, match="flags are not for"):
            store.load(chunks, flags)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../latents-{}.safetensors"},
        {"name": "latents-000000000000.safetensors"},
        {"name": 1},
        {"sha256": "A" * 64},
        {"sha256": None},
        {"count": 0},
        {"count": True},
        {"count": 2.0},
        {"more": 1},
    ],
)
def test_chunk_entries_are_not_trusted(change: dict[str, Any]) -> None:
    good = {"name": f"latents-{'a' * 12}.safetensors", "sha256": "a" * 64, "count": 3}
    assert Chunk.from_info(good).to_info() == good
    with pytest.raises(StateError, match="was damaged"):
        Chunk.from_info({**good, **change})
    with pytest.raises(StateError, match="was damaged"):
        Chunk.from_info([good])


def test_samples_are_validated() -> None:
    good = fake_samples(4)
    for name, value in {
        "labels": good.labels.astype(np.int32),
        "latents": good.latents[:3],
        "soft_targets": good.soft_targets[:, 0],
        "pending": good.pending.astype(np.int8),
    }.items():
        with pytest.raises(InputError, match=r"Samples' \w+ must be"):
            dataclasses.replace(good, **{name: value})
    changes = {
        "labels": good.labels + SLOTS,
        "origin": good.origin + 7,
        "soft_targets": np.full_like(good.soft_targets, np.inf),
        "has_soft": ~good.has_soft,
    }
    for name, value in changes.items():
        with pytest.raises(InputError):
            dataclasses.replace(good, **{name: value}).check(LATENT, SLOTS)
    with pytest.raises(InputError, match="don't fit the bundle's"):
        good.check((1, 1, 1), SLOTS)
    with pytest.raises(InputError, match="don't fit the bundle's"):
        good.check(LATENT, SLOTS + 1)


def test_select_copies() -> None:
    samples = fake_samples(6)
    chosen = samples.select(np.array([4, 1]))
    np.testing.assert_array_equal(chosen.labels, samples.labels[[4, 1]])
    assert len(samples.select(samples.held_back)) == samples.held_back.sum()
    assert not np.shares_memory(chosen.latents, samples.latents)


def test_damaged_chunks_are_done_without(tmp_path: Path) -> None:
    store, parts = make_store(tmp_path), [fake_samples(7, 1), fake_samples(3, 2), fake_samples(5, 3)]
    chunks = [chunk for part in parts for chunk in store.append(part)]
    everything = Samples.concat(parts)
    intact, samples, notes = store.recover(chunks, everything.flags())
    assert (intact, notes) == (chunks, [])
    assert_same(samples, everything)
    (tmp_path / chunks[1].name).write_bytes(b"cut")
    (tmp_path / chunks[2].name).unlink()
    intact, samples, notes = store.recover(chunks, everything.flags())
    assert intact == chunks[:1]
    assert_same(samples, parts[0])
    assert "3 samples are gone" in notes[0]
    assert "5 samples are gone" in notes[1]
    with pytest.raises(StateError, match="flags are not for"):
        store.recover(chunks, {})


def test_a_chunk_that_may_not_be_read_is_not_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, samples = make_store(tmp_path), fake_samples(4)
    chunks = store.append(samples)

    def refuse(self: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "lstat", refuse)
    with pytest.raises(StateError, match="Permission denied"):
        store.recover(chunks, samples.flags())
