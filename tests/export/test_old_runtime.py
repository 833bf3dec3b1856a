"""The same program in TensorFlow Lite's last stand-alone runtime, which wants numpy 1: an environment of its own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

PYTHON = "POCKETSTEP_TFLITE_PYTHON"
"""Environment variable: an interpreter with pocketstep-device and tflite-runtime 2.14; ``scripts/test`` sets it."""


def test_the_golden_trace_on_tflite_runtime(bundle_path: Path) -> None:
    python = os.environ.get(PYTHON, "")
    if not python or not Path(python).exists():
        pytest.skip(f"{PYTHON} names no interpreter: tflite-runtime 2.14 has wheels up to Python 3.11 only")
    command = [python, "-m", "pocketstep_device", "replay", str(bundle_path.resolve()), "--runtime", "tflite"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout.splitlines()[-1])
