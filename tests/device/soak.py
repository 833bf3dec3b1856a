"""Hundreds and thousands of updates in one process: memory and files stay as they are.

    python tests/device/soak.py digits.bundle --runtime litert --rounds 1000
    python tests/device/soak.py digits.bundle --beside torch        # in a process with many more objects

Observes six made-up images of one class after another, and updates after each. Prints one JSON object: what was
resident (MiB) and what lay in the state folder (bytes) after each twentieth of the rounds, and whether both are flat.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pocketstep_device.budget import resident_mb
from pocketstep_device.learner import Learner

MARKS = 20
MOST_MB = 3.0
"""A leak of 6 kB an update is more; what an allocator keeps comes and goes by as much, in both halves."""
Batch = Callable[[str, int], Any]


def soak(learner: Learner, folder: Path, rounds: int, batch: Batch, method: str) -> tuple[list[float], list[int]]:
    """Observes and updates; resident memory (MiB) and bytes in the folder after each twentieth of the rounds."""
    memory, sizes = [], []
    for index in range(rounds):
        name = learner.classes[index % len(learner.classes)]
        learner.observe(batch(name, index), name)
        learner.update(method=method)
        if (index + 1) % (rounds // MARKS) == 0:
            memory.append(round(resident_mb(), 1))
            sizes.append(sum(path.stat().st_size for path in folder.iterdir()))
    return memory, sizes


def is_flat(memory: list[float], sizes: list[int], most_mb: float) -> bool:
    """The second half of the rounds takes no more than the first, but for the store's own coming and going."""
    half = len(sizes) // 2
    return max(sizes[half:]) <= 1.1 * max(sizes[:half]) and max(memory[half:]) - max(memory[:half]) < most_mb


def made_up(shape: tuple[int, ...]) -> Batch:
    """Six images of a class: its own pattern, and noise."""

    def batch(name: str, index: int) -> Any:
        own = np.random.default_rng([*name.encode()]).uniform(20, 235, shape)
        noise = np.random.default_rng([index, *name.encode()]).normal(0, 30, (6, *shape))
        return np.clip(own + noise, 0, 255).astype(np.uint8)

    return batch


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--runtime", default="litert")
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--method", default="closed-form")
    parser.add_argument("--beside", help="a module to import first")
    options = parser.parse_args()
    if options.beside:
        importlib.import_module(options.beside)
    memory_disk, began = Path("/dev/shm"), time.monotonic()
    with tempfile.TemporaryDirectory(dir=memory_disk if memory_disk.is_dir() else None) as name:
        state = Path(name) / "state"
        with Learner.open(options.bundle, state, options.runtime, store_mb=1.0) as learner:
            if learner.free_slots:
                learner.add_class("new")
            batch = made_up(tuple(learner.manifest.task.input.shape))
            memory, sizes = soak(learner, state, options.rounds, batch, options.method)
            updates = learner.status()["updates"]
    flat = is_flat(memory, sizes, MOST_MB)
    found = {"rounds": options.rounds, "kept": updates, "memory_mb": memory, "bytes": sizes, "flat": flat}
    json.dump({**found, "seconds": round(time.monotonic() - began)}, sys.stdout)
    sys.stdout.write("\n")
    return 0 if flat else 1


if __name__ == "__main__":
    raise SystemExit(main())
