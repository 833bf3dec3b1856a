"""Hundreds and thousands of updates in one process: memory and files stay as they are."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import toy
from soak import is_flat, soak
from states import digest

from pocketstep_device.learner import Learner


@pytest.mark.parametrize("rounds", [300, pytest.param(1000, marks=pytest.mark.slow)])
def test_many_updates(memory_folder: Path, monkeypatch: pytest.MonkeyPatch, rounds: int) -> None:
    toy.install(monkeypatch)
    bundle, state = toy.toy_bundle(memory_folder / "toy.bundle"), memory_folder / "state"
    with Learner.open(bundle, state, store_mb=0.02) as learner:
        learner.add_class("stripes")
        memory, sizes = soak(learner, state, rounds, lambda name, index: toy.images(name, 6, seed=index), "closed-form")
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
@pytest.mark.parametrize(
    ("python", "words"),
    [
        ("", ("--runtime", "litert", "--beside", "torch")),
        ("", ("--runtime", "executorch")),
        ("POCKETSTEP_DEVICE_PYTHON", ("--runtime", "litert")),
        ("POCKETSTEP_TFLITE_PYTHON", ("--runtime", "tflite")),
    ],
    ids=["litert beside torch", "executorch", "litert", "tflite"],
)
def test_a_thousand_updates_on_a_real_runtime(bundle_path: Path, python: str, words: tuple[str, ...]) -> None:
    if python and not Path(os.environ.get(python, "none")).exists():
        pytest.skip(f"{python} names no Python")
    command = [os.environ[python] if python else sys.executable, str(Path(__file__).with_name("soak.py"))]
    done = subprocess.run([*command, str(bundle_path), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["kept"] > 900
