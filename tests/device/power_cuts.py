"""Cuts the power of an emulated aarch64 board while it learns, and looks what its disk holds at the next start.

    python tests/device/power_cuts.py FOLDER --cuts 50 --seed 1
    python tests/device/power_cuts.py FOLDER --bundle digits.bundle --runtime tflite --memory-mb 128 --cuts 6

The board works through the row of operations of ``board_row.py``, with a toy bundle in numpy whose state has half a
megabyte, or with a real one on a real runtime (there, an operation takes half a minute). QEMU is killed at random
times, or at a random call that writes, and started again on the same disk. What a learner finds there must be exactly
the state after the last operation that it said was done, or after the one that it was doing, as an undisturbed process
on the same board computes them. ``--careless`` leaves out the flushes: then something must get lost, or this test sees
nothing. ``--greedy`` makes the kernel end the process for want of memory instead. Prints one JSON object.

QEMU writes through the host's page cache, so what a disk with a cache of its own would lose is not tried.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import toy
from board_row import METHOD, NAMES

from pocketstep.validate.board import Board, start
from pocketstep.validate.wheels import device_package, site
from pocketstep_device.bundle import Bundle
from pocketstep_device.bundle_writer import write_bundle
from pocketstep_device.shipped import REPLAY_FILE, STATE_FILE
from pocketstep_device.tensors import read_tensors, write_tensors

PYTHON = "3.11"
REPLAYED = 48
"""Samples of the replay set that the board's bundle keeps: fewer make shorter updates, and so more cuts in an hour."""
SCHEDULE = {
    "meaning": "the closed form, then two steps",
    "phases": [
        {"kind": "solve", "name": "closed form"},
        {"kind": "train", "name": "steps", "rows": "all", "epochs": 1, "max_steps": 2, "learning_rate": 0.01},
    ],
    "accept": {"max_old_loss": 1.0, "max_class_loss": 1.0},
}
SLOTS = 2500
ENVIRONMENT = "PYTHONPATH=/data/site:/data/package:/data/tests"
STARVED = 15
"""Operations that are prepared for each process that the kernel shall end."""
AIMED = 0.7
"""Share of the cuts that wait for a call that writes."""


class Lost(Exception):
    """The disk holds neither the old nor the new state."""


def small_bundle(source: Path, target: Path) -> Path:
    """A bundle of the same network with one program, a small replay set and the schedule of this test."""
    bundle = Bundle.open(source)
    manifest = json.loads(bundle.manifest.to_json())
    del manifest["files"]
    manifest["runtimes"] = {"litert": manifest["runtimes"]["litert"]}
    manifest["schedules"][METHOD] = SCHEDULE
    tensors, metadata = read_tensors(bundle.read(REPLAY_FILE), REPLAY_FILE)
    few = slice(None, None, max(1, len(tensors["labels"]) // REPLAYED))
    replay = write_tensors({name: tensor[few] for name, tensor in tensors.items()}, metadata)
    program = manifest["runtimes"]["litert"]["file"]
    files = {program: bundle.read(program), STATE_FILE: bundle.read(STATE_FILE), REPLAY_FILE: replay}
    return write_bundle(target, manifest, files).path


def _toy(target: Path) -> Path:
    """The toy's, with so many slots that its state takes as long to write as a real one's."""
    return toy.toy_bundle(target, slots=SLOTS, schedules={METHOD: SCHEDULE})


@dataclass
class Heard:
    """What the board's process said since it was started."""

    found: str = ""
    done: int = 0
    longest: float = 1.0
    inside: str = ""
    calls: int = 0
    notes: list[str] = field(default_factory=list)


def furnish(board: Board, runtime: str, bundle: Path) -> None:
    """Puts the device package, a runtime, these scripts and a bundle on the board's disk."""
    with tempfile.TemporaryDirectory() as name:
        device_package(Path(name))
        board.put(Path(name), "/data/package")
    packages = "tflite" if runtime == toy.RUNTIME else runtime  # of which the toy wants numpy
    board.put(site(packages, PYTHON, "aarch64"), "/data/site")
    for script in ("board_row.py", "states.py", "toy.py", "fakes.py"):
        board.put(Path(__file__).with_name(script), f"/data/tests/{script}")
    board.put(bundle, "/data/small.bundle")
    board.run("sync")


class Row:
    """The process on the board."""

    def __init__(self, board: Board, runtime: str, state: str, *flags: str) -> None:
        shell, words = board.shell, " ".join(flags)
        program = f"python3 board_row.py /data/small.bundle {state} {runtime} {words}"
        command = f"cd /data/tests && {ENVIRONMENT} {program}; exit $?"
        line = ["ssh", *shell.options, "-p", str(shell.port), shell.host, command]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(line, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        self.heard = Heard()

    def lines(self) -> Iterator[str]:
        """What it says, as it says it, until it ends."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._note(line.split())
            yield line

    def _note(self, words: list[str]) -> None:
        heard = self.heard
        if words[0] == "found":
            heard.found = words[1]
        elif words[0] == "done":
            heard.done += 1
        elif words[0] == ">":
            heard.inside = words[1]
            heard.calls += 1
        elif words[0] == "<":
            heard.inside = ""
        else:
            heard.notes.append(" ".join(words))

    def until_found(self) -> str:
        for line in self.lines():
            if line.startswith("found"):
                return self.heard.found
        raise Lost(f"the learner did not open: {self.heard.notes} {self._said()[-2000:]}")

    def tell(self, index: int) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{index}\n")
        self._process.stdin.flush()

    def _said(self) -> str:
        assert self._process.stderr is not None
        return self._process.stderr.read()

    def end(self) -> int:
        """Waits for it, or ends the connection; gives the exit status."""
        with suppress(BrokenPipeError):
            self._process.communicate(timeout=30)
        return self._process.returncode


class Campaign:
    """All cuts of one board, one after the other on one disk."""

    def __init__(
        self, folder: Path, bundle: Path | None, runtime: str, memory_mb: int, seed: int, flags: list[str]
    ) -> None:
        self._folder, self._runtime, self._memory_mb, self._flags = folder, runtime, memory_mb, flags
        self._chance, self._expected = random.Random(seed), [""]
        self._small = small_bundle(bundle, folder / "small.bundle") if bundle else _toy(folder / "small.bundle")
        self.boots: list[float] = []

    @contextmanager
    def board(self) -> Iterator[Board]:
        board = start(self._folder / "board", self._memory_mb, processors=2)
        self.boots.append(round(board.boot_seconds, 1))
        try:
            yield board
        finally:
            board.cut()

    def prepare(self, operations: int) -> None:
        """Puts everything on the board's disk, and lets it compute what is right, undisturbed."""
        with self.board() as board:
            furnish(board, self._runtime, self._small)
            row = Row(board, self._runtime, "/data/undisturbed", "--count", str(operations))
            self._expected = [row.until_found()]
            self._expected += [line.split()[2] for line in row.lines() if line.startswith("done")]
            row.end()
            if len(self._expected) != operations + 1:
                raise Lost(f"the undisturbed row ended after {len(self._expected) - 1} operations")
            board.stop()

    def cut_one(self, position: int, last: bool) -> tuple[int, str, dict[str, str]]:
        """Starts the board, compares what it holds, and, but for the last time, goes on and cuts.

        Returns:
            The operations that it said were done; what was found at this start; and about the cut.
        """
        with self.board() as board:
            row = Row(board, self._runtime, "/data/state", *self._flags)
            found = row.until_found()
            if row.heard.notes:
                raise Lost(f"a note: {row.heard.notes}")
            outcome = self._outcome(found, position)
            position += outcome == "new"
            if last:
                return position, outcome, {}
            done, name = self._go_on(board, row, position)
            about = {"in": name, "inside": row.heard.inside or "no call"}
            row.end()
        return position + done, outcome, about

    def _outcome(self, found: str, position: int) -> str:
        before, after = self._expected[position : position + 2]
        if found not in (before, after):
            place = self._expected.index(found) if found in self._expected else "no operation"
            raise Lost(f"neither the state after operation {position} nor the next: that after {place}")
        return "either, they are equal" if before == after else "old" if found == before else "new"

    def _go_on(self, board: Board, row: Row, position: int) -> tuple[int, str]:
        """Operations until the cut; how many the board said were done, and in which the power went."""
        whole, aimed = self._chance.randrange(0, 3), self._chance.random() < AIMED
        lines = row.lines()
        for index in range(position, position + whole):
            row.tell(index)
            _until_done(lines)
        last = position + whole
        calls = row.heard.calls
        wanted, delay = calls + self._chance.randrange(1, 9), self._chance.uniform(0, 0.02)
        row.tell(last)
        if aimed:
            for line in lines:
                if row.heard.calls >= wanted or line.startswith("done"):
                    break
            time.sleep(delay)
        else:
            time.sleep(self._chance.uniform(0, 3.0))
        board.cut()
        for _ in lines:  # what was on its way
            pass
        return row.heard.done, NAMES[last % len(NAMES)]

    def starve_one(self, board: Board, position: int, last: bool) -> tuple[int, str, dict[str, str]]:
        """As ``cut_one``, on a board that goes on: the kernel ends the process."""
        row = Row(board, self._runtime, "/data/state", "--greedy")
        outcome = self._outcome(row.until_found(), position)
        position += outcome == "new"
        if last:
            return position, outcome, {}
        index = position
        row.tell(index)
        for line in row.lines():
            if line.startswith("done"):
                index += 1
                if index + 1 >= len(self._expected):
                    raise Lost(f"the kernel let it live for {index - position} operations, more than were prepared")
                row.tell(index)
        about = {"in": NAMES[index % len(NAMES)], "inside": row.heard.inside or "no call", "status": str(row.end())}
        return position + row.heard.done, outcome, about


def _until_done(lines: Iterator[str]) -> None:
    for line in lines:
        if line.startswith("done"):
            return
    raise Lost("the board's process ended by itself")


def campaign(
    folder: Path, bundle: Path | None, runtime: str, memory_mb: int, cuts: int, seed: int, flags: list[str]
) -> dict[str, Any]:
    """All of it; raises ``Lost`` at the first state that must not be."""
    began, found = time.monotonic(), Campaign(folder, bundle, runtime, memory_mb, seed, flags)
    greedy = "--greedy" in flags
    found.prepare((STARVED if greedy else 2) * cuts + len(NAMES))
    position = 0
    abouts: list[dict[str, str]] = []
    with found.board() if greedy else nullcontext() as board:
        for number in range(cuts + 1):
            last = number == cuts
            one = found.starve_one(board, position, last) if board else found.cut_one(position, last)
            position, outcome, about = one
            if number:
                abouts[-1]["outcome"] = outcome
                sys.stderr.write(f"cut {number}: {abouts[-1]}\n")
            abouts += [about] if not last else []
    shutil.rmtree(folder / "board", ignore_errors=True)
    return {
        "cuts": cuts, "runtime": runtime, "memory_mb": memory_mb, "seed": seed, "operations": position,
        **{key: dict(Counter(about[key] for about in abouts)) for key in sorted(abouts[0])},
        "boot_seconds": [min(found.boots), max(found.boots)], "seconds": round(time.monotonic() - began),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="an empty folder for the board")
    parser.add_argument("--bundle", type=Path, help="a real one (default: the toy's)")
    parser.add_argument("--runtime", default=toy.RUNTIME, help="toy (default), tflite or litert")
    parser.add_argument("--cuts", type=int, default=50)
    parser.add_argument("--memory-mb", type=int, default=256)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--careless", action="store_true")
    parser.add_argument("--greedy", action="store_true")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    flags = ["--careless"] * options.careless + ["--greedy"] * options.greedy
    try:
        result = campaign(
            options.folder, options.bundle, options.runtime, options.memory_mb, options.cuts, options.seed, flags
        )
    except Lost as lost:
        sys.stderr.write(f"{lost}\n")
        return 1
    json.dump(result, sys.stdout)
    sys.stdout.write("\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
