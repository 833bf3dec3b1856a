"""Hundreds and thousands of updates in one process: memory and files stay as they are."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy
from memory_folder import memory_folder
from states import digest

from pocketstep_device.budget import resident_mb
from pocketstep_device.learner import Learner

__all__ = ["memory_folder"]


def soak(learner: Learner, folder: Path, rounds: int, batches: list[Any], method: str) -> tuple[list[float], list[int]]:
    """Observes and updates; resident memory (MiB) and bytes in the folder after each tenth of the rounds."""
    memory, sizes = [], []
    for index in range(rounds):
        name = learner.classes[index % len(learner.classes)]
        learner.observe(batches[index % len(batches)](name, index), name)
        learner.update(method=method)
        if (index + 1) % (rounds // 10) == 0:
            memory.append(resident_mb())
            sizes.append(sum(path.stat().st_size for path in folder.iterdir()))
    return memory, sizes


def is_flat(memory: list[float], sizes: list[int], most_mb: float) -> bool:
    """The second half of the rounds takes no more than the first, but for the store's own coming and going."""
    half = len(sizes) // 2
    return max(sizes[half:]) <= 1.1 * max(sizes[:half]) and memory[-1] - memory[1] < most_mb


@pytest.mark.parametrize("rounds", [300, pytest.param(1000, marks=pytest.mark.slow)])
def test_many_updates(memory_folder: Path, monkeypatch: pytest.MonkeyPatch, rounds: int) -> None:
    toy.install(monkeypatch)
    bundle, state = toy.toy_bundle(memory_folder / "toy.bundle"), memory_folder / "state"
    with Learner.open(bundle, state, store_mb=0.02) as learner:
        learner.add_class("stripes")
        memory, sizes = soak(
            learner, state, rounds, [lambda name, index: toy.images(name, 6, seed=index)], "closed-form"
        )  # fmt: skip
        assert learner.status()["updates"] > 0.9 * rounds
        assert is_flat(memory, sizes, 3)
        assert max(sizes) < 100_000
        last = digest(learner)
    with Learner.open(bundle, state, store_mb=0.02) as learner:
        assert digest(learner) == last


@pytest.mark.parametrize("method", ["closed-form", "train", "auto"])
def test_an_update_leaves_nothing_to_collect(memory_folder: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """In a process with many objects, such as one with torch, Python collects circles after many updates."""
    toy.install(monkeypatch)
    with Learner.open(toy.toy_bundle(memory_folder / "toy.bundle"), memory_folder / "state") as learner:
        for seed in (1, 2):  # the first one imports what is left to import
            learner.observe(toy.images("dark", 30, seed=seed), "dark")
            gc.collect()
            gc.disable()
            try:
                learner.update(method=method)
                left = gc.collect()
            finally:
                gc.enable()
    assert left == 0


@pytest.mark.slow
def test_a_thousand_updates_on_a_real_runtime(bundle_path: Path, memory_folder: Path, digits: Any) -> None:
    train = digits[0]
    chance = np.random.default_rng(0)

    def batch(name: str, index: int) -> Any:
        own = train.images[train.labels == int(name)]
        return own[chance.integers(0, len(own), 6)] // (1 + index % 2)

    with Learner.open(bundle_path, memory_folder / "state", store_mb=1.0) as learner:
        learner.add_class("9")
        memory, sizes = soak(learner, memory_folder / "state", 1000, [batch], "closed-form")
    assert is_flat(memory, sizes, 10)
