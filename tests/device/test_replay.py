from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import LATENT, SLOTS, fake_samples

from pocketstep_device.errors import InputError, StateError
from pocketstep_device.replay import Chunk, ReplayStore
from pocketstep_device.samples import DEVICE, Samples
from pocketstep_device.state import StateStore
from pocketstep_device.tensors import read_tensors, write_tensors


def make(folder: Path, max_bytes: int = 10**6) -> ReplayStore:
    return ReplayStore(folder, LATENT, SLOTS, max_bytes)


def assert_same(left: Samples, right: Samples) -> None:
    for field in dataclasses.fields(Samples):
        np.testing.assert_array_equal(getattr(left, field.name), getattr(right, field.name))
        assert getattr(left, field.name).dtype == getattr(right, field.name).dtype


def test_append_and_load(tmp_path: Path) -> None:
    store = make(tmp_path)
    parts = [fake_samples(7, 1), fake_samples(1, 2), fake_samples(12, 3)]
    chunks = [chunk for part in parts for chunk in store.append(part)]
    samples = Samples.concat(parts)
    assert_same(make(tmp_path).load(chunks, samples.flags()), samples)
    assert store.append(Samples.empty(LATENT, SLOTS)) == []
    assert_same(store.load([], {}), Samples.empty(LATENT, SLOTS))
    for chunk in chunks:
        assert chunk.name == f"latents-{chunk.sha256[:12]}.safetensors"
        assert hashlib.sha256((tmp_path / chunk.name).read_bytes()).hexdigest() == chunk.sha256


def test_flags_live_in_the_snapshot(tmp_path: Path) -> None:
    samples = fake_samples(10)
    chunks = make(tmp_path).append(samples)
    updated = dataclasses.replace(samples, pending=np.zeros(10, bool), held_back=~samples.held_back)
    state = StateStore(tmp_path, "b" * 64)
    state.save(updated.flags(), {"chunks": [chunk.to_info() for chunk in chunks]})
    snapshot = state.load()
    assert snapshot is not None
    named = [Chunk.from_info(value) for value in snapshot.info["chunks"]]
    assert named == chunks
    assert_same(make(tmp_path).load(named, snapshot.tensors), updated)
    assert make(tmp_path).append(updated) == chunks  # the file does not depend on the flags


def test_crash_between_chunk_and_snapshot_leaves_the_old_state(tmp_path: Path) -> None:
    state, store = StateStore(tmp_path, "b" * 64), make(tmp_path)
    samples = fake_samples(5)
    chunks = store.append(samples)
    state.save(samples.flags(), {"chunks": [chunk.to_info() for chunk in chunks]})
    store.append(fake_samples(5, 1))  # and here the power goes
    snapshot = StateStore(tmp_path, "b" * 64).load()
    assert snapshot is not None
    assert_same(make(tmp_path).load(chunks, snapshot.tensors), samples)
    (tmp_path / ".latents-0123456789ab.safetensors.tmp").write_bytes(b"cut")
    make(tmp_path).collect_garbage(chunks)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([chunks[0].name, "snapshot-000001.safetensors"])


def test_garbage_that_cannot_be_removed_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(tmp_path)
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
    store, samples = make(tmp_path), fake_samples(4)
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
    store, samples = make(tmp_path), fake_samples(4)
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
    store, samples = make(tmp_path), fake_samples(4)
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


def unbalanced() -> Samples:
    """400 samples of class 0, 60 of class 1, 20 of class 2; the last 10 pending; a quarter held back."""
    samples = fake_samples(480)
    labels = np.repeat([0, 1, 2], [400, 60, 20]).astype(np.int64)
    return dataclasses.replace(
        samples,
        labels=labels,
        pending=np.arange(480) >= 470,
        has_soft=np.zeros(480, bool),
        soft_targets=np.zeros((480, SLOTS), np.float32),
    )


def test_compaction_is_balanced_bounded_and_keeps_pending(tmp_path: Path) -> None:
    limit = 4 * (4096 + 120 * 22) // 3 + 1
    store, samples = make(tmp_path, limit), unbalanced()
    before = store.append(samples)
    assert store.over_limit(before)
    chunks, kept = store.compact(samples)
    assert len(chunks) == 1
    assert not store.over_limit(chunks)
    assert_same(store.load(chunks, kept.flags()), kept)
    assert np.bincount(kept.labels).tolist() == [50, 50, 20]
    assert kept.pending.sum() == 10
    share = [kept.held_back[kept.labels == label].mean() for label in range(3)]
    np.testing.assert_allclose(share, 0.25, atol=0.02)
    where = [np.flatnonzero((samples.latents == latent).all((1, 2, 3)))[0] for latent in kept.latents]
    assert where == sorted(where)


def test_compaction_is_a_reservoir(tmp_path: Path) -> None:
    """What was observed first is as likely to stay as what came last; how often it was compacted does not matter."""
    same = {"labels": np.zeros(40, np.int64), "soft_targets": np.zeros((40, SLOTS), np.float32)}
    same |= {name: np.zeros(40, np.bool_) for name in ("pending", "held_back", "has_soft")}
    arriving = [dataclasses.replace(fake_samples(40, seed), **same) for seed in range(30)]
    store = make(tmp_path, 4 * (4096 + 100 * 22) // 3 + 1)
    kept = arriving[0]
    for samples in arriving[1:]:
        kept = store.compact(Samples.concat([kept, samples]))[1]
    at_once = store.compact(Samples.concat(arriving))[1]
    assert_same(kept, at_once)
    everything = Samples.concat(arriving).latents
    where = [np.flatnonzero((everything == latent).all((1, 2, 3)))[0] for latent in kept.latents]
    assert len(where) == 100
    thirds = np.bincount(np.array(where) // 400, minlength=3)  # a third of 100, with a deviation of 4.5
    assert thirds.min() >= 18, thirds


def test_android_keeps_the_same_samples(tmp_path: Path) -> None:
    """ReplayStoreTest.kt has the same samples and the same digest."""
    rows, slots = np.arange(600), 4
    has_soft = rows % 3 == 0
    samples = Samples(
        latents=(np.arange(600 * 12) * 31 % 251 - 125).astype(np.int8).reshape(600, 2, 2, 3),
        labels=rows % 3,
        soft_targets=(np.arange(600 * slots).reshape(600, slots) * np.float32(0.25) * has_soft[:, None]).astype(
            np.float32
        ),
        has_soft=has_soft,
        held_back=rows % 4 == 0,
        origin=np.full(600, DEVICE, np.uint8),
        pending=rows % 5 == 0,
    )
    kept = ReplayStore(tmp_path, (2, 2, 3), slots, 16_000).compact(samples)[1]
    digest = hashlib.sha256(kept.latents.tobytes() + kept.labels.astype(np.uint8).tobytes())
    assert digest.hexdigest()[:16] == "d79ed21d1d603737"


def test_pending_come_first_even_when_they_alone_are_too_many(tmp_path: Path) -> None:
    samples = dataclasses.replace(unbalanced(), pending=np.arange(480) >= 100)
    _, kept = make(tmp_path, 8000).compact(samples)
    assert kept.pending.all()
    assert set(kept.labels.tolist()) == {0, 1, 2}


def test_a_flood_of_one_class_displaces_no_other(tmp_path: Path) -> None:
    """Not even while the flood is pending and the others have been learned."""
    labels = np.repeat([0, 1, 2], [4000, 60, 20]).astype(np.int64)
    flood = dataclasses.replace(
        fake_samples(4080),
        labels=labels,
        pending=labels == 0,
        has_soft=np.zeros(4080, bool),
        soft_targets=np.zeros((4080, SLOTS), np.float32),
    )
    _, kept = make(tmp_path, 4 * (4096 + 120 * 22) // 3 + 1).compact(flood)
    assert np.bincount(kept.labels).tolist() == [50, 50, 20]


def test_damaged_chunks_are_done_without(tmp_path: Path) -> None:
    store, parts = make(tmp_path), [fake_samples(7, 1), fake_samples(3, 2), fake_samples(5, 3)]
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
    store, samples = make(tmp_path), fake_samples(4)
    chunks = store.append(samples)

    def refuse(self: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "lstat", refuse)
    with pytest.raises(StateError, match="Permission denied"):
        store.recover(chunks, samples.flags())


def test_samples_that_fit_are_all_kept(tmp_path: Path) -> None:
    samples = fake_samples(9)
    assert_same(make(tmp_path).compact(samples)[1], samples)
    empty = Samples.empty(LATENT, SLOTS)
    assert make(tmp_path, 1).compact(empty)[0] == []


def test_no_room_for_one_sample(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="no room"):
        make(tmp_path, 100).compact(fake_samples(3))


def test_soft_targets_count_against_the_limit(tmp_path: Path) -> None:
    samples = dataclasses.replace(fake_samples(300), has_soft=np.ones(300, bool))
    store = make(tmp_path, 8000)
    chunks, kept = store.compact(samples)
    assert not store.over_limit(chunks)
    assert 0 < len(kept) < 60
