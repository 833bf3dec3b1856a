"""The emulated board loses its power, and its memory, while it learns; takes minutes, and QEMU."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("qemu-system-aarch64") is None, reason="needs qemu-system-aarch64: scripts/emulated_board install"
    ),
]


def run(script: str, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(Path(__file__).with_name(script)), str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def result(script: str, folder: Path, *words: str) -> Any:
    done = run(script, folder, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_power_cuts(tmp_path: Path) -> None:
    found = result("power_cuts.py", tmp_path, "--cuts", "50", "--seed", "3")
    assert sum(found["outcome"].values()) == 50
    assert found["outcome"]["old"] > 0
    assert sum(found["inside"].values()) - found["inside"].get("no call", 0) > 5


def test_power_cuts_with_a_real_runtime(tmp_path: Path, bundle_path: Path) -> None:
    words = ("--bundle", str(bundle_path), "--runtime", "tflite", "--memory-mb", "128", "--cuts", "4")
    assert sum(result("power_cuts.py", tmp_path, *words)["outcome"].values()) == 4


def test_a_writer_without_flushes_is_noticed(tmp_path: Path) -> None:
    done = run("power_cuts.py", tmp_path, "--cuts", "30", "--careless")
    assert done.returncode == 1
    assert "neither the state" in done.stderr or "a note" in done.stderr or "did not open" in done.stderr


def test_out_of_memory_kills(tmp_path: Path) -> None:
    found = result("power_cuts.py", tmp_path, "--cuts", "10", "--greedy", "--memory-mb", "128")
    assert found["status"] == {"137": 10}


def test_a_board_of_128_mib_finishes_or_refuses(tmp_path: Path, bundle_path: Path) -> None:
    found = result("small_board.py", tmp_path, "--bundle", str(bundle_path))
    assert "it was not begun and nothing was changed" in found["beside a full memory"]["said"]
    assert found["with room"]["exit_code"] == 0
    assert found["state changed"]
