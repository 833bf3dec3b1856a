"""Runs exporters side by side, each in a process of its own.

Their libraries take seconds to import and do not get along in one process; a crash in one loses nothing of the
others. ``python -m pocketstep.export.run RUNTIME GRAPHS TARGET REPORT`` is what such a process is.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

import torch

from pocketstep.compile.lower import Graph
from pocketstep.export import RUNTIMES
from pocketstep.export.report import Report
from pocketstep_device.errors import CheckFailedError, InputError, PocketstepError

OnDone = Callable[[str, float], None]


def save_graphs(graphs: Sequence[Graph], folder: Path) -> None:
    """Writes the graphs where exporters find them, in order."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, graph in enumerate(graphs):
        torch.export.save(graph.exported, folder / f"{index:02d}-{graph.signature.name}.pt2")


def load_graphs(folder: Path) -> dict[str, torch.export.ExportedProgram]:
    """The counterpart of :func:`save_graphs`; only ever our own files, written moments ago."""
    return {path.stem.split("-", 1)[1]: torch.export.load(path) for path in sorted(folder.glob("*.pt2"))}


def export_all(
    graphs: Path, runtimes: Sequence[str], target: Path, on_done: OnDone | None = None
) -> dict[str, Report]:
    """Exports to every runtime at the same time.

    Args:
        graphs: folder written by :func:`save_graphs`.
        runtimes: names out of ``RUNTIMES``.
        target: folder for the program files.
        on_done: called with a runtime's name and its seconds when it is done.

    Raises:
        InputError: unknown runtime.
        CheckFailedError: an exporter failed; its last lines are in the message, all of them in ``target``.
    """
    unknown = [name for name in runtimes if name not in RUNTIMES]
    if unknown:
        raise InputError(f"unknown runtime {', '.join(unknown)}; choose from {', '.join(RUNTIMES)}")
    target.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    running = {name: _start(name, graphs, target) for name in runtimes}
    reports: dict[str, Report] = {}
    while running:
        for name, process in list(running.items()):
            if process.poll() is None:
                continue
            del running[name]
            if process.returncode != 0:
                for other in running.values():
                    other.kill()
                raise CheckFailedError(f"the export to {name} failed: {_last_words(target / f'{name}.log')}")
            reports[name] = Report.read(target / f"{name}.json")
            if on_done:
                on_done(name, time.monotonic() - start)
        time.sleep(0.1)
    return {name: reports[name] for name in runtimes}


def _start(name: str, graphs: Path, target: Path) -> subprocess.Popen[bytes]:
    arguments = [name, str(graphs), str(target / RUNTIMES[name]), str(target / f"{name}.json")]
    with (target / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "pocketstep.export.run", *arguments],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"},
        )


def _last_words(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"{' '.join(lines[-3:])} (all of it: {log})"


def main() -> int:
    """One exporter, in this process."""
    name, graphs, target, report = sys.argv[1:5]
    logging.basicConfig(level=logging.WARNING)
    try:
        exporter = import_module(f"pocketstep.export.{name}")
        exporter.export(load_graphs(Path(graphs)), Path(target)).write(Path(report))
    except PocketstepError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
