"""The machine that measures, and the runtimes that it has."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from pocketstep_device.bundle import Bundle
from pocketstep_device.errors import InputError
from pocketstep_device.runtimes import MODULES

PACKAGES = ("ai-edge-litert", "executorch", "numpy")


def machine() -> dict[str, Any]:
    """Processor, cores, system, Python, versions of the runtimes, and how busy it is (``load``, of the last minute)."""
    versions: dict[str, str] = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count() or 0,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions,
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def runtimes_of(bundle: Bundle, wanted: Sequence[str] | None) -> list[str]:
    """The runtimes to measure a bundle on: those wanted, else all of the bundle that run on a host.

    Raises:
        InputError: the bundle has none of them, or one that is wanted is unknown or not in it.
    """
    known = [name for name in bundle.manifest.runtimes if name in MODULES]
    if unknown := [name for name in wanted or [] if name not in MODULES]:
        raise InputError(f"unknown runtime '{unknown[0]}'; choose from litert, executorch")
    if missing := [name for name in wanted or [] if name not in known]:
        raise InputError(
            f"{bundle.path} has no program for {missing[0]}, only for {', '.join(bundle.manifest.runtimes)}; choose "
            "one of these or build it again"
        )
    if not known:
        raise InputError(f"{bundle.path} has no program that runs here; build it with --runtime litert")
    return list(wanted or known)
