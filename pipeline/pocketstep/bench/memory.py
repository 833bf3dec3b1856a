"""Peak resident memory of every signature, and of learning, above an idle process, in a fresh process each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pocketstep.bench.host import machine, runtimes_of
from pocketstep.bench.process import WorkerProcess
from pocketstep.bench.worker import LIBRARIES
from pocketstep_device.bundle import Bundle
from pocketstep_device.bundle_writer import write_bundle
from pocketstep_device.errors import InputError, MissingToolError
from pocketstep_device.forecast import MEASURED, WHOLE

ALL = "all"
"""The row of a process that uses every signature."""
UPDATE = "update"
"""The row of a process that observes and updates, as a device does."""
IMAGES = 100
"""Images that it observes."""
LESSONS: dict[str, tuple[str, float | None]] = {
    "learn, closed form": ("closed-form", None),
    "learn, auto in 10 s": ("auto", 10.0),
}
"""Rows of processes that learn a class of as many images: schedule, and seconds that it may take."""
CALLS = 3
PLAIN = "plain"
"""The signature that is there to compare with; no device runs it."""


def measure(
    paths: Sequence[Path], runtimes: Sequence[str] | None, threads: int, on_stage: Callable[[str], None]
) -> dict[str, Any]:
    """Measures all bundles on all runtimes.

    Idle is a process that imported the runtime and numpy and checked the bundle; what comes on top is the program,
    its packed weights and arenas.

    Args:
        paths: the bundles.
        runtimes: names, or None for all of each bundle.
        threads: CPU threads.
        on_stage: told what is being done.

    Returns:
        ``machine``, ``threads``, and ``rows`` of ``bundle``, ``runtime``, ``signature``, ``batch``, ``resident_mb``
        (MiB), ``forecast_mb`` (of the row ``update``: what the manifest foretells), ``seconds`` (of rows that learn a
        class of ``IMAGES`` images: from the first image to the answer) and ``program_bytes``.

    Raises:
        InputError: a bundle cannot be read, or lacks a runtime that is wanted.
        MissingToolError: a runtime is not installed, or the system is no Linux.
        CheckFailedError: a process died.
    """
    if threads < 1:
        raise InputError(f"{threads} threads make no sense; give 1 or more")
    rows: list[dict[str, Any]] = []
    host = machine()
    for bundle in [Bundle.open(path) for path in paths]:
        signatures = bundle.manifest.signatures
        for runtime in runtimes_of(bundle, runtimes):
            on_stage(f"{bundle.path.name} on {runtime}")
            lessons = [name for name, (method, _) in LESSONS.items() if method in bundle.manifest.schedules]
            for name in (*signatures, ALL, UPDATE, *lessons):
                answer = _ask(bundle, runtime, threads, name)
                rows.append(
                    {
                        "bundle": str(bundle.path),
                        "runtime": runtime,
                        "signature": name,
                        "batch": signatures[name].batch if name in signatures else None,
                        "resident_mb": answer["resident_mb"],
                        "forecast_mb": answer.get("forecast_mb"),
                        "seconds": answer.get("seconds"),
                        "program_bytes": program_bytes(bundle, runtime),
                    }
                )
    return {"machine": host, "threads": threads, "rows": rows}


def write_measured(
    target: Path, manifest: Mapping[str, Any], files: Mapping[str, Path | bytes], threads: int = 2
) -> Bundle:
    """Writes a bundle whose ``cost`` says how much memory each loaded program takes: devices forecast with it.

    It is measured on the bundle itself, so only for runtimes that are installed here, and only on Linux; a figure that
    is missing makes devices guess. Arguments are ``write_bundle``'s.
    """
    bundle, found = write_bundle(target, manifest, files), {}
    for runtime in bundle.manifest.runtimes:
        if runtime in LIBRARIES:
            with contextlib.suppress(MissingToolError):
                found[MEASURED + runtime] = round(_ask(bundle, runtime, threads, ALL)["resident_mb"] * 2**20)
                if runtime == "litert":  # this package loads its signatures in turn, an app all of them
                    whole = _ask(bundle, runtime, threads, ALL, whole=True)["resident_mb"]
                    found[MEASURED + runtime + WHOLE] = round(whole * 2**20)
    return write_bundle(target, {**manifest, "cost": {**manifest["cost"], **found}}, files)


def _ask(bundle: Bundle, runtime: str, threads: int, name: str, whole: bool = False) -> dict[str, Any]:
    """A signature's, all signatures' or an update's memory, from a fresh process."""
    what = {"bundle": str(bundle.path), "runtime": runtime, "threads": threads}
    with WorkerProcess(f"{bundle.path} on {runtime}") as worker:
        if name == UPDATE:
            return worker.ask("update", **what, images=IMAGES)
        if name in LESSONS:
            method, seconds = LESSONS[name]
            return worker.ask("learn", **what, images=IMAGES, method=method, seconds=seconds)
        on_device = [signature for signature in bundle.manifest.signatures if signature != PLAIN]
        names = on_device if name == ALL else [name]
        return worker.ask("memory", **what, signatures=names, calls=CALLS, whole=whole)


def program_bytes(bundle: Bundle, runtime: str) -> int:
    """Size of a runtime's program: a file, or all files of a folder."""
    name = bundle.manifest.runtimes[runtime].file
    return sum(e.bytes for path, e in bundle.manifest.files.items() if path == name or path.startswith(name + "/"))
