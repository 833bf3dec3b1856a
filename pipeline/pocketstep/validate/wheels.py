"""A folder of Python packages for another machine: one runtime with what it needs, fetched on this one by pip."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import sys
from functools import cache
from pathlib import Path

import pocketstep_device
from pocketstep.validate.cache import cached, key
from pocketstep.validate.errors import TargetError
from pocketstep.validate.tools import checked, last_lines, run

NEEDS = {
    "litert": ("ai-edge-litert", "numpy", "backports.strenum", "flatbuffers"),
    "tflite": ("tflite-runtime", "numpy"),
    "executorch": ("executorch", "numpy"),
}
"""Runtime -> packages that it needs to run: fewer than their wheels list, which also serve converting."""
NO_WHEELS = {
    ("litert", "armv7l"): "ai-edge-litert 2.3.0 has no wheel for armv7",
    ("executorch", "armv7l"): "executorch 1.5.1 has no wheel for armv7",
    ("executorch", "aarch64"): "executorch's Python binding needs torch, which this emulated userland does not have",
}
"""What was looked for and does not exist, (runtime, machine) -> why."""
_GLIBC = (17, 24, 26, 27, 28, 31, 34)
_UNUSED = ("*WebGpu*", "*/vendors", "*/aot", "*litert_converter*", "*pywrap_genai_ops*")
_TIMEOUT = 900.0


def site(runtime: str, python: str, machine: str, without_numpy: bool = False) -> Path:
    """A folder for ``PYTHONPATH``.

    Args:
        runtime: ``litert``, ``tflite`` or ``executorch``.
        python: the target's version, such as ``3.11``.
        machine: as ``uname -m`` says there.
        without_numpy: the target brings its own.

    Raises:
        TargetError: there is no pip here, no network, or no such wheel.
    """
    specs = [spec for spec in requirements(runtime) if not (without_numpy and spec.startswith("numpy"))]
    name = f"sites/{machine}-python{python}-{runtime}-{key(*specs, *_UNUSED)}"
    return cached(name, lambda folder: _fetch(folder, specs, python, machine))


def requirements(runtime: str) -> list[str]:
    """A runtime's packages with the versions that ``pocketstep-device`` pins."""
    pinned: dict[str, str] = {}
    for text in importlib.metadata.requires("pocketstep-device") or []:
        spec, _, marker = text.partition(";")
        if not marker or f"'{runtime}'" in marker.replace('"', "'"):
            pinned[re.split(r"[<>=!~ ]", spec, maxsplit=1)[0]] = spec.strip()
    return [pinned.get(name, name) for name in NEEDS[runtime]]


def device_package(folder: Path) -> None:
    """Copies the device package's source, as it is here, into a folder for ``PYTHONPATH``."""
    source = Path(pocketstep_device.__file__).parent
    shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns("__pycache__"))


def compile_for(folder: Path, python: str) -> None:
    """Compiles a folder's Python where this machine's Python is of the target's version: an emulator takes minutes."""
    if python == f"{sys.version_info.major}.{sys.version_info.minor}":
        run([sys.executable, "-m", "compileall", "-qq", "--invalidation-mode", "unchecked-hash", folder], _TIMEOUT)


def _fetch(folder: Path, specs: list[str], python: str, machine: str) -> None:
    tags = [f"manylinux_2_{minor}_{machine}" for minor in _GLIBC] + [f"manylinux2014_{machine}"]
    platforms = [word for tag in tags for word in ("--platform", tag)]
    words = ["--only-binary=:all:", "--no-deps", "--no-compile", "--python-version", python, *platforms]
    words += ["--quiet", "--disable-pip-version-check", "--target", str(folder)]
    checked([*_pip(), "install", *words, *specs], _TIMEOUT, f"Fetching {', '.join(specs)} for {machine}")
    for pattern in _UNUSED:
        for path in folder.glob(pattern if pattern.startswith("*/") else f"**/{pattern}"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for part in folder.glob("*/**/tests"):
        shutil.rmtree(part)
    compile_for(folder, python)


@cache
def _pip() -> list[str]:
    """A Python that has pip: ours, else the system's."""
    said = b""
    for python in (sys.executable, shutil.which("python3"), "/usr/bin/python3"):
        if python and Path(python).exists():
            done = run([python, "-m", "pip", "--version"], 60)
            if done.returncode == 0:
                return [python, "-m", "pip"]
            said = done.stderr
    raise TargetError("missing tool", f"no Python here has pip ({last_lines(said, 1)}); apt-get install python3-pip")
