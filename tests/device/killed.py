"""Kills learners with SIGKILL at random times, and looks what they leave.

    python tests/device/killed.py FOLDER --kills 1000 --seed 1

A child process works through an endless, repeatable row of operations (add a class, observe, update, roll back, adopt)
on toy bundles and says after each that it is done; it is killed at a random time. What is found then must be exactly
the state after the last operation that it said was done, or after the one that it was doing: an undisturbed process
computes both. The next child goes on from there. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import NoReturn

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # a process that forks has one thread

import toy
from states import digest, digest_on_disk

from pocketstep_device.adoption import adopt
from pocketstep_device.learner import Learner

NAMES = ("observe", "add_class", "observe", "update", "observe", "update", "rollback", "update", "adopt")
STORE_MB = 0.02
SLOTS = 12
LIVED = 3
"""Operations that a child does before it is killed, at most, by the time that they took so far."""


class Row:
    """The row of operations on one state folder."""

    def __init__(self, bundles: tuple[Path, Path], folder: Path) -> None:
        self.bundles, self.folder = bundles, folder

    def do(self, index: int) -> str:
        """Operation ``index`` on whatever the folder holds; gives the digest after it."""
        name, used = NAMES[index % len(NAMES)], index // len(NAMES)
        bundle, other = (self.bundles[(used + turn) % 2] for turn in (0, 1))
        if name == "adopt":
            assert adopt(other, self.folder, store_mb=STORE_MB, method="closed-form").accepted
            return self.found()
        with Learner.open(bundle, self.folder, store_mb=STORE_MB) as learner:
            if name == "add_class" and learner.free_slots:
                learner.add_class(f"class {len(learner.classes)}")
            elif name == "update" and learner.status()["pending_samples"]:
                learner.update(method="closed-form")
            elif name == "rollback" and learner.status()["can_roll_back"]:
                learner.rollback()
            elif name == "observe":
                label = learner.classes[index % len(learner.classes)]
                learner.observe(toy.images(label, 6, seed=index), label)
            return digest(learner)

    def found(self) -> str:
        return digest_on_disk(self.folder, *self.bundles, store_mb=STORE_MB)


def child(row: Row, start: int, done: int) -> NoReturn:
    """Works until it is killed; one line of its pipe for each operation that is done."""
    index = start
    while True:
        row.do(index)
        os.write(done, f"{index}\n".encode())
        index += 1


def kill_one(row: Row, start: int, seconds: float) -> int:
    """Starts a child at an operation and kills it; gives how many it said were done."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        try:
            child(row, start, writing)
        finally:
            os._exit(1)  # only an error comes here
    os.close(writing)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    with os.fdopen(reading, "rb") as pipe:
        done = pipe.read().count(b"\n")
    if os.WTERMSIG(status) != signal.SIGKILL:
        raise SystemExit(f"the child ended by itself after operation {start + done}")
    return done


def campaign(folder: Path, kills: int, seed: int) -> dict[str, object]:
    """All kills, one after the other on one state."""
    bundles = tuple(
        toy.toy_bundle(folder / f"{name}.bundle", name=name, slots=SLOTS, suffix=suffix)
        for name, suffix in (("a", 1), ("b", 2))
    )
    assert len(bundles) == 2
    killed, undisturbed = Row(bundles, folder / "killed"), Row(bundles, folder / "undisturbed")
    chance, outcomes, hit = random.Random(seed), Counter[str](), Counter[str]()
    expected = [undisturbed.found()]
    assert killed.found() == expected[0]
    position, began = 0, time.monotonic()
    while len(expected) <= len(NAMES):
        expected.append(undisturbed.do(len(expected) - 1))
    spent, finished = time.monotonic() - began, len(NAMES)
    for number in range(kills):
        seconds = chance.uniform(0, LIVED * spent / finished)
        done = kill_one(killed, position, seconds)
        spent, finished = spent + seconds, finished + done
        while len(expected) <= position + done + 1:
            expected.append(undisturbed.do(len(expected) - 1))
        before, after = expected[position + done : position + done + 2]
        found, name = killed.found(), NAMES[(position + done) % len(NAMES)]
        if found not in (before, after):
            raise SystemExit(f"killed in operation {position + done} ({name}): neither the old nor the new state")
        outcome = "either, they are equal" if before == after else "old" if found == before else "new"
        outcomes[outcome] += 1
        hit[name] += 1
        position += done + (found == after)
        if number % 100 == 99:
            sys.stderr.write(f"{number + 1} kills, {position} operations\n")
    return {
        "kills": kills, "operations": position, "found": dict(outcomes), "killed in": dict(hit),
        "seconds": round(time.monotonic() - began, 1), "seed": seed,
        "state_bytes": sum(path.stat().st_size for path in killed.folder.iterdir()),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="an empty folder for bundles and states")
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    toy.install()
    json.dump(campaign(options.folder, options.kills, options.seed), sys.stdout)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
