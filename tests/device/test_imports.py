from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ALLOWED = {"numpy", "pocketstep_device"}

WALK = """
import importlib, json, pkgutil, sys
before = set(sys.modules)
import pocketstep_device
names = [m.name for m in pkgutil.walk_packages(pocketstep_device.__path__, "pocketstep_device.")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
print(json.dumps([names, sorted({m.split(".")[0] for m in set(sys.modules) - before})]))
"""

OPEN = """
import sys
from pocketstep_device import Learner
with Learner.open(sys.argv[1], sys.argv[2], "litert") as learner:
    learner.add_class("new")
    assert learner.status()["free_slots"] == 2
heavy = {"torch", "executorch", "tensorflow", "coremltools", "pocketstep", "scipy", "PIL"}
print(sorted(heavy & {m.split(".")[0] for m in sys.modules}))
"""


def run(code: str, *arguments: str) -> str:
    """In a fresh interpreter, its last line."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def test_the_package_needs_numpy_and_nothing_else() -> None:
    names, loaded = json.loads(run(WALK))
    assert {"pocketstep_device.learner", "pocketstep_device.cli", "pocketstep_device.runtimes.executorch"} <= set(names)
    assert "numpy" in loaded
    allowed = sys.stdlib_module_names | ALLOWED
    assert [m for m in loaded if m not in allowed and not m.startswith("_")] == []


def test_opening_with_litert_needs_no_torch(bundle_path: Path, tmp_path: Path) -> None:
    assert run(OPEN, str(bundle_path), str(tmp_path / "state")) == "[]"


@pytest.mark.parametrize("arguments", [["--help"], ["classify", "--help"]])
def test_help_needs_no_numpy_runtime(arguments: list[str]) -> None:
    code = (
        "import sys\nsys.argv[0] = 'pocketstep-device'\n"
        "from pocketstep_device.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "print('ai_edge_litert' in sys.modules, 'torch' in sys.modules)"
    )
    assert run(code, *arguments) == "False False"
