"""A board of 128 MiB: an update finishes there, or is refused before it begins, with the estimate.

    python tests/device/small_board.py FOLDER --bundle digits.bundle --runtime tflite --memory-mb 128

Learns on the emulated board as a user does, by ``pocketstep-device``: once with the memory that is free, and once
beside a process that holds all but a little of it. Prints one JSON object with what was said and what was free.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from board_row import images
from power_cuts import ENVIRONMENT, furnish

from pocketstep.validate.board import Board, start
from pocketstep_device.bundle import Bundle

LEARNER = f"cd /data && {ENVIRONMENT} python3 -m pocketstep_device"
LEFT_MB = 40
"""What the other process leaves: enough to open a learner, too little to learn. With much less, a board without swap
does nothing but read the same libraries again."""
HOG = f"""
import time
def free():
    return next(int(line.split()[1]) for line in open("/proc/meminfo") if line.startswith("MemAvailable"))
taken = []
while free() > {LEFT_MB} * 1024:
    taken.append(b"1" * 2**20)
open("/data/held", "w").close()
time.sleep(600)
"""


class SmallBoard:
    """The board, and what is said there."""

    def __init__(self, board: Board, runtime: str) -> None:
        self._board, self._runtime = board, runtime

    def learner(self, command: str, *words: str) -> dict[str, Any]:
        """``pocketstep-device COMMAND`` there; its exit status and what it said."""
        began = time.monotonic()
        line = f"{LEARNER} {command} small.bundle {' '.join(words)} --state state --json"
        done = self._board.run(line, timeout=1800)
        said = done.stdout.decode() if done.returncode == 0 else done.stderr.decode()
        result = {"exit_code": done.returncode, "said": said.strip(), "seconds": round(time.monotonic() - began)}
        sys.stderr.write(f"{command}: {result}\n")
        return result

    def free_mb(self) -> int:
        said = self._board.run("grep MemAvailable /proc/meminfo").stdout.decode()
        return int(said.split()[1]) // 1024

    def fill_memory(self) -> None:
        """Starts a process that holds memory; the kernel shall not choose it."""
        self._board.run("cat > /data/hog.py", HOG.encode())
        self._board.run("(echo -1000 > /proc/self/oom_score_adj; exec python3 /data/hog.py) > /dev/null 2>&1 &")
        self._board.run("until [ -e /data/held ]; do sleep 1; done", timeout=600)

    def state(self) -> str:
        """Digests of what lies in the state folder."""
        return self._board.run("cd /data/state && sha256sum snapshot-* latents-*").stdout.decode()


def campaign(folder: Path, bundle: Path, runtime: str, memory_mb: int, seconds: int) -> dict[str, Any]:
    """Observes, is refused beside a full memory, and learns when there is room."""
    opened = Bundle.open(bundle)
    shape = tuple(opened.manifest.task.input.shape)
    np.savez(folder / "new.npz", images=np.concatenate([images(shape, "new", seed) for seed in range(5)]))
    board = start(folder / "board", memory_mb, processors=2)
    try:
        furnish(board, runtime, bundle)
        board.put(folder / "new.npz", "/data/new.npz")
        small = SmallBoard(board, runtime)
        result: dict[str, Any] = {"memory_mb": memory_mb, "runtime": runtime, "free_mb": small.free_mb()}
        result["observe"] = small.learner("observe", "new.npz", "--label", "new", "--new-class")
        before = small.state()
        small.fill_memory()
        result["beside a full memory"] = small.learner("learn", "--seconds", str(seconds))
        result["state unchanged"] = bool(before) and small.state() == before
        board.run("kill $(pidof python3)")
        result["with room"] = small.learner("learn", "--seconds", str(seconds))
        result["state changed"] = small.state() != before
    finally:
        board.cut()
        shutil.rmtree(folder / "board", ignore_errors=True)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="an empty folder for the board")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--runtime", default="tflite")
    parser.add_argument("--memory-mb", type=int, default=128)
    parser.add_argument("--seconds", type=int, default=60, help="the update's budget")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    result = campaign(options.folder, options.bundle, options.runtime, options.memory_mb, options.seconds)
    json.dump(result, sys.stdout, indent=1)
    sys.stdout.write("\n")
    kept = result["with room"]["exit_code"] in (0, 1)
    return 0 if kept and result["state unchanged"] and result["beside a full memory"]["exit_code"] == 1 else 1


if __name__ == "__main__":
    raise SystemExit(main())
