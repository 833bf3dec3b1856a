"""Where things are, and how they fail."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[2]
APP = ROOT / "android_app"
BUILD = APP / "build"
CATALOG = APP / "gradle" / "libs.versions.toml"
LOCK = APP / "gradle" / "artifacts.lock"
FAILED, WRONG_USE, MISSING = 1, 2, 3


def stop(message: str, code: int = FAILED) -> NoReturn:
    """Ends with a message and a documented exit code."""
    print(f"scripts/android: {message}", file=sys.stderr)
    raise SystemExit(code)


def need(tool: str, package: str) -> str:
    """A program's path, or the sentence that says how to get it."""
    found = shutil.which(tool)
    if not found:
        stop(f"{tool} is not installed; on Debian: apt-get install {package}", MISSING)
    return found


def run(command: Sequence[str | Path], cwd: Path | None = None, env: Mapping[str, str] | None = None) -> None:
    """Runs a command; its failure is this script's."""
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=env, check=False)
    if done.returncode:
        stop(f"{Path(str(command[0])).name} ended with {done.returncode}")
