"""Runs on a board: a repeatable row of operations, each when it is told to, each call that writes announced.

    board_row.py BUNDLE STATE RUNTIME [--count N] [--careless] [--greedy]

RUNTIME may be ``toy``, for a toy's bundle.

Says ``found DIGEST`` of what the state folder holds; then reads one line for each operation, its index, and says ``done
INDEX DIGEST``. Around every call that changes the disk it says ``> CALL`` and ``< CALL``, so that whoever listens can
cut the power in between. ``--count`` does the first N operations at once, undisturbed; ``--careless`` leaves out every
flush, as a naive writer does; ``--greedy`` takes more and more memory beside the operations, until the kernel ends it.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
import toy
from states import digest

from pocketstep_device.learner import Learner

NAMES = ("observe", "add_class", "observe", "update", "observe", "update", "rollback", "update")
CALLS = ("write", "fsync", "replace", "unlink")
STORE_MB = 0.25
METHOD = "short"
GREED = 2**20


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def images(shape: tuple[int, ...], label: str, seed: int) -> Any:
    """Six made-up images of a class: its own pattern, and noise."""
    base = np.random.default_rng([*label.encode()]).uniform(20, 235, shape)
    noise = np.random.default_rng([seed, *label.encode()]).normal(0, 20, (6, *shape))
    return np.clip(base + noise, 0, 255).astype(np.uint8)


def do(learner: Learner, index: int) -> str:
    """Operation ``index`` of the row; gives the digest after it."""
    name = NAMES[index % len(NAMES)]
    if name == "add_class" and learner.free_slots:
        learner.add_class(f"class {len(learner.classes)}")
    elif name == "update" and learner.status()["pending_samples"]:
        learner.update(method=METHOD)
    elif name == "rollback" and learner.status()["can_roll_back"]:
        learner.rollback()
    elif name == "observe":
        label = learner.classes[-1 - index % 3]
        learner.observe(images(tuple(learner.manifest.task.input.shape), label, index), label)
    return digest(learner)


def announce(careless: bool) -> None:
    """Makes every call that changes the disk say when it begins and ends."""
    for name in CALLS:
        real = getattr(os, name)
        setattr(os, name, _announced(name, (lambda *_: None) if careless and name == "fsync" else real))


def _announced(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        say(f"> {name}")
        result = real(*arguments, **options)
        say(f"< {name}")
        return result

    return call


def take_memory() -> None:
    """The kernel shall choose this process, and no other, sooner or later."""
    Path("/proc/self/oom_score_adj").write_text("1000")
    pause = random.uniform(0.01, 0.1)

    def grow() -> None:
        taken = []
        while True:
            taken.append(b"\1" * GREED)
            time.sleep(pause)

    threading.Thread(target=grow, daemon=True).start()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("state", type=Path)
    parser.add_argument("runtime")
    parser.add_argument("--count", type=int)
    parser.add_argument("--careless", action="store_true")
    parser.add_argument("--greedy", action="store_true")
    options = parser.parse_args()
    if options.runtime == toy.RUNTIME:
        toy.install()
        options.runtime = "litert"  # in its place
    with Learner.open(options.bundle, options.state, options.runtime, threads=1, store_mb=STORE_MB) as learner:
        if learner.notes:
            say(f"notes {learner.notes}")
        say(f"found {digest(learner)}")
        if options.count is not None:
            for index in range(options.count):
                say(f"done {index} {do(learner, index)}")
            return
        announce(options.careless)
        if options.greedy:
            take_memory()
        for line in sys.stdin:
            say(f"done {line.strip()} {do(learner, int(line))}")


if __name__ == "__main__":
    main()
