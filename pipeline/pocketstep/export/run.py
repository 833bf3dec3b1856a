"""Runs exporters side by side, each in a process of its own.

Their libraries take seconds to import and do not get along in one process; a crash in one loses nothing of the
others. ``python -m pocketstep.export.run RUNTIME`` is what such a process is.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import IO

import torch

from pocketstep.compile.lower import Graph
from pocketstep.export import RUNTIMES
from pocketstep.export.report import Report
from pocketstep_device.errors import CheckFailedError, InputError, PocketstepError

END = "pocketstep: "
"""Before the last words of an exporter that knows why it failed."""
OnDone = Callable[[str, float], None]


def save_graphs(graphs: Sequence[Graph], folder: Path) -> None:
    """Writes the graphs where exporters find them, in order."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, graph in enumerate(graphs):
        torch.export.save(graph.exported, folder / f"{index:02d}-{graph.signature.name}.pt2")


def load_graphs(folder: Path) -> dict[str, torch.export.ExportedProgram]:
    """The counterpart of :func:`save_graphs`; only ever our own files, written moments ago."""
    return {path.stem.split("-", 1)[1]: torch.export.load(path) for path in sorted(folder.glob("*.pt2"))}


class Exporters:
    """One waiting process a runtime: they import while the cloud still trains, and export side by side.

    Use as a context manager; leaving it ends every process that is still there.

    Args:
        runtimes: names out of ``RUNTIMES``.
        on_done: called with a runtime's name and its seconds when it is done.

    Raises:
        InputError: unknown runtime.
    """

    def __init__(self, runtimes: Sequence[str], on_done: OnDone | None = None):
        unknown = [name for name in runtimes if name not in RUNTIMES]
        if unknown:
            raise InputError(f"unknown runtime {', '.join(unknown)}; choose from {', '.join(RUNTIMES)}")
        self.runtimes, self._on_done = list(runtimes), on_done
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._target, self._start = Path(), 0.0
        self._logs = {name: tempfile.TemporaryFile() for name in self.runtimes}  # noqa: SIM115  closed in __exit__

    def __enter__(self) -> Exporters:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
        for name in self.runtimes:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", "pocketstep.export.run", name],
                stdin=subprocess.PIPE,
                stdout=self._logs[name],
                stderr=subprocess.STDOUT,
                env=environment,
            )
        return self

    def __exit__(self, *_: object) -> None:
        for name, process in self._processes.items():
            process.kill()
            process.wait()
            if process.stdin:
                with contextlib.suppress(OSError):
                    process.stdin.close()
            self._logs[name].close()

    def begin(self, graphs: Sequence[Graph], target: Path, modules: Mapping[str, str] | None = None) -> None:
        """Hands the graphs over; program files will be in ``target``.

        ``modules``: operators that a runtime may not know -> the module that uses them, for the error.
        """
        self._target, self._start = target, time.monotonic()
        save_graphs(graphs, target / "graphs")
        for name, process in self._processes.items():
            order = [
                str(target / "graphs"), str(target / RUNTIMES[name]), str(target / f"{name}.json"), dict(modules or {}),
            ]  # fmt: skip
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it died before; finish() says why
                process.stdin.write(json.dumps(order).encode() + b"\n")
                process.stdin.flush()

    def finish(self) -> dict[str, Report]:
        """Waits for all.

        Raises:
            CheckFailedError: an exporter failed; its last lines are in the message.
        """
        reports: dict[str, Report] = {}
        while len(reports) < len(self.runtimes):
            for name, process in self._processes.items():
                if name in reports or process.poll() is None:
                    continue
                if process.returncode != 0:
                    raise CheckFailedError(f"the export to {name} failed: {_last_words(self._logs[name])}")
                reports[name] = Report.read(self._target / f"{name}.json")
                if self._on_done:
                    self._on_done(name, time.monotonic() - self._start)
            time.sleep(0.05)
        return reports


def _last_words(log: IO[bytes]) -> str:
    log.seek(0)
    text = log.read().decode(errors="replace")
    if END in text:
        return text.rsplit(END, 1)[1].strip()
    lines = [line for line in text.splitlines() if line.strip()]
    return " ".join(lines[-4:]) or "it said nothing"


def main() -> int:
    """One exporter, in this process: imports, waits for an order on stdin, exports."""
    os.nice(5)  # the cloud's training goes first; only imports can wait
    gc.disable()  # the lowerings make and drop millions of small objects: a quarter of their time is collection
    exporter = import_module(f"pocketstep.export.{sys.argv[1]}")
    exporter.load_libraries()
    line = sys.stdin.readline()
    if not line:
        return 0
    graphs, target, report, modules = json.loads(line)
    try:
        exporter.export(load_graphs(Path(graphs)), Path(target)).write(Path(report))
    except PocketstepError as error:
        sys.stderr.write(f"\n{END}{error}\n")
        return error.exit_code
    except Exception as error:  # of a converter: which operator it was is somewhere in its text
        traceback.print_exc()
        sys.stderr.write(f"\n{END}{explained(sys.argv[1], f'{type(error).__name__}: {error}', modules)}\n")
        return CheckFailedError.exit_code
    return 0


def explained(runtime: str, text: str, modules: Mapping[str, str]) -> str:
    """A converter's error as one sentence that names the operator and its module, or those that it may be."""
    for operator, module in modules.items():
        if operator.split(".")[1] in text:
            return (
                f"{runtime} has no operator for {operator}, which module '{module}' uses in the frozen prefix; "
                f"replace that module, or leave this runtime out with --runtime"
            )
    first = next((line for line in text.splitlines() if line.strip()), "it said nothing")
    if modules:
        suspects = ", ".join(f"{operator} (module '{module}')" for operator, module in modules.items())
        return (
            f"{first[:400]}; {runtime} may have no operator for one of these of the frozen prefix: {suspects}; "
            f"replace that module, or leave this runtime out with --runtime"
        )
    return f"{first[:400]}; leave this runtime out with --runtime, or report this network"


if __name__ == "__main__":
    raise SystemExit(main())
