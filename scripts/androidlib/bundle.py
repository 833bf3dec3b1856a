"""Puts a bundle into the demo app, without the programs and the trace that the app has no use for."""

from __future__ import annotations

import os
from pathlib import Path

from androidlib.apk import ASSETS
from androidlib.paths import MISSING, ROOT, WRONG_USE, run, stop

NAME = "model.bundle"
TRIMMER = Path(__file__).with_name("trim_bundle.py")


def put(bundle: Path, python: Path | None) -> None:
    """Checks ``bundle`` and writes what the app needs of it; Python's own package does both."""
    interpreter = python or ROOT / ".venv" / "bin" / "python"
    if not interpreter.exists():
        stop(f"there is no {interpreter}; run scripts/test once, or give --python", MISSING)
    if not bundle.exists():
        stop(f"there is no bundle at {bundle}; pocketstep demo or pocketstep export makes one", WRONG_USE)
    ASSETS.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "on_device")}
    run([interpreter, TRIMMER, bundle, ASSETS / NAME, "litert"], env=environment)
