"""Real SIGKILLs at random times: a quick sample, and a thousand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def kill(folder: Path, kills: int, seed: int) -> Any:
    script = Path(__file__).with_name("killed.py")
    command = [sys.executable, str(script), str(folder), "--kills", str(kills), "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check(result: Any) -> None:
    assert sum(result["found"].values()) == result["kills"]
    assert result["operations"] > result["kills"] / 2  # children got somewhere
    assert result["found"].get("old", 0) > 0  # and some were killed within an operation
    assert result["state_bytes"] < 200_000


def test_thirty_kills(tmp_path: Path) -> None:
    check(kill(tmp_path, 30, seed=7))


@pytest.mark.slow
def test_a_thousand_kills(tmp_path: Path) -> None:
    result = kill(tmp_path, 1000, seed=8)
    check(result)
    assert set(result["killed in"]) == {"observe", "add_class", "update", "rollback", "adopt"}
