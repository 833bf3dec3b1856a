"""Peak resident memory of every signature above an idle process, in a fresh process each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pocketstep.bench.host import machine, runtimes_of
from pocketstep.bench.process import WorkerProcess
from pocketstep_device.bundle import Bundle
from pocketstep_device.errors import InputError

ALL = "all"
"""The row of a process that uses every signature."""
CALLS = 3


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
        (MiB) and ``program_bytes``.

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
            for name in (*signatures, ALL):
                with WorkerProcess(f"{bundle.path} on {runtime}") as worker:
                    answer = worker.ask(
                        "memory", bundle=str(bundle.path), runtime=runtime, threads=threads,
                        signatures=list(signatures) if name == ALL else [name], calls=CALLS,
                    )  # fmt: skip
                rows.append(
                    {
                        "bundle": str(bundle.path),
                        "runtime": runtime,
                        "signature": name,
                        "batch": signatures[name].batch if name in signatures else None,
                        "resident_mb": answer["resident_mb"],
                        "program_bytes": program_bytes(bundle, runtime),
                    }
                )
    return {"machine": host, "threads": threads, "rows": rows}


def program_bytes(bundle: Bundle, runtime: str) -> int:
    """Size of a runtime's program: a file, or all files of a folder."""
    name = bundle.manifest.runtimes[runtime].file
    return sum(e.bytes for path, e in bundle.manifest.files.items() if path == name or path.startswith(name + "/"))
