"""``pocketstep`` from a shell: quick help, clear errors, exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def pocketstep(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pocketstep", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_help_names_every_command_and_the_exit_codes() -> None:
    done = pocketstep("--help")
    assert done.returncode == 0
    for word in ("demo", "train", "compress", "build", "validate", "3 a tool or"):
        assert word in done.stdout


def test_help_waits_for_no_heavy_library() -> None:
    code = "import sys, pocketstep.cli; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "typer" in done.stdout.split()
    assert not {"torch", "numpy", "sklearn", "matplotlib", "executorch", "litert_torch"} & set(done.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["validate", "nowhere.bundle"], 2, "There is no bundle at nowhere.bundle"),
        (["build", "nothing", "-o", "x.bundle"], 2, "there is no recipe nothing"),
        (["train", "nothing", "-o", "x"], 2, "there is no recipe nothing"),
        (["demo", "--runtime", "abacus"], 2, "'abacus' is not one of 'litert', 'executorch'"),
        (["demo", "--out", "/dev/null"], 2, "is a file"),
        (["teach"], 2, "No such command"),
    ],
)
def test_wrong_use(arguments: list[str], code: int, words: str, tmp_path: Path) -> None:
    done = pocketstep(*arguments)
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr
