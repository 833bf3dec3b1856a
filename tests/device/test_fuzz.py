"""A sample of the fuzzer's mutations; ``fuzz.py`` itself runs as many as one likes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


def run(*arguments: str) -> None:
    command = [sys.executable, str(Path(__file__).with_name("fuzz.py")), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = json.loads(done.stdout)["outcomes"]
    for kind in ("manifest", "tensors", "bytes", "zip", "state", "signed"):
        assert any(name.startswith(f"{kind}: refused") for name in outcomes)
    assert not any(name.startswith("signed: accepted, h") for name in outcomes)


def test_two_thousand_mutations() -> None:
    run("--count", "2000", "--seed", "3")


@pytest.mark.slow
def test_a_hundred_thousand_mutations() -> None:
    run("--count", "100000", "--seed", "4")
