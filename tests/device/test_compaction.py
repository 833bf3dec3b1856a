"""What a full store keeps."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest
from fakes import LATENT, SLOTS, assert_same, fake_samples, make_store

from pocketstep_device.errors import StateError
from pocketstep_device.replay import ReplayStore
from pocketstep_device.samples import DEVICE, Samples


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
    store, samples = make_store(tmp_path, limit), unbalanced()
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
    store = make_store(tmp_path, 4 * (4096 + 100 * 22) // 3 + 1)
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
    _, kept = make_store(tmp_path, 8000).compact(samples)
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
    _, kept = make_store(tmp_path, 4 * (4096 + 120 * 22) // 3 + 1).compact(flood)
    assert np.bincount(kept.labels).tolist() == [50, 50, 20]


def test_samples_that_fit_are_all_kept(tmp_path: Path) -> None:
    samples = fake_samples(9)
    assert_same(make_store(tmp_path).compact(samples)[1], samples)
    empty = Samples.empty(LATENT, SLOTS)
    assert make_store(tmp_path, 1).compact(empty)[0] == []


def test_no_room_for_one_sample(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="no room"):
        make_store(tmp_path, 100).compact(fake_samples(3))


def test_soft_targets_count_against_the_limit(tmp_path: Path) -> None:
    samples = dataclasses.replace(fake_samples(300), has_soft=np.ones(300, bool))
    store = make_store(tmp_path, 8000)
    chunks, kept = store.compact(samples)
    assert not store.over_limit(chunks)
    assert 0 < len(kept) < 60
