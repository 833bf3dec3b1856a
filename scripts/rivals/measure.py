"""What every rival's script shares: the task, the clock, the memory meter and the one line of JSON.

A rival gives a ``build`` that writes what a device must hold (run in a process of its own, as it happens offline) and
a ``load`` that returns a session to train with. Standard library and numpy only.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
WORK = ROOT / ".venv-rivals" / "work"
CLOUD_PYTHON = ROOT / ".venv" / "bin" / "python"
PREPARATION = ("networks.py", "prepare.py")
NETWORKS = ("small", "resnet18", "mobilenet_v2")
TOLERANCE = 1e-3  # of the first loss, against PyTorch's
SLACK = 0.05  # of what the first step takes off the loss: the gradients are autograd's
MEBIBYTE = 2**20


class RivalError(Exception):
    """This combination is impossible, or what was measured was no training; the text says why in one sentence."""


class Session(ABC):
    """A loaded training program."""

    @abstractmethod
    def loss(self, images: np.ndarray, labels: np.ndarray) -> float:
        """One optimiser step; the loss before it."""

    def step(self, images: np.ndarray, labels: np.ndarray) -> None:
        """One optimiser step, for which the loss need not be known."""
        self.loss(images, labels)

    @abstractmethod
    def parameters(self) -> Mapping[str, np.ndarray]:
        """Values that can be read back, under PyTorch's names (layouts may differ)."""


@dataclass(frozen=True)
class Task:
    """One measurement: which network and plan, and how."""

    network: str
    plan: str
    batch: int
    threads: int
    repeat: int
    warm_up: int

    @functools.cached_property
    def folder(self) -> Path:
        """Where the network lies as data; written on first use, by the environment that has torch."""
        folder = WORK / digest(PREPARATION) / f"{self.network}-{self.plan}-{self.batch}"
        if not (folder / "graph.json").exists():
            script = HERE / "prepare.py"
            command: list[str | Path] = [CLOUD_PYTHON, script, self.network, self.plan, str(self.batch), folder]
            subprocess.run(command, check=True, stdout=sys.stderr)
        return folder

    @functools.cached_property
    def graph(self) -> dict[str, Any]:
        """Nodes, names of the trained parameters, autograd's first losses, learning rate (see prepare.py)."""
        graph: dict[str, Any] = json.loads((self.folder / "graph.json").read_text())
        return graph

    @property
    def nodes(self) -> list[dict[str, Any]]:
        """The network, in order."""
        nodes: list[dict[str, Any]] = self.graph["nodes"]
        return nodes

    @property
    def trained(self) -> list[str]:
        """Names of the parameters that the plan trains."""
        return list(self.graph["trained"])

    @property
    def rate(self) -> float:
        """The learning rate."""
        return float(self.graph["rate"])

    def weights(self) -> dict[str, np.ndarray]:
        """Every parameter, in PyTorch's layouts."""
        with np.load(self.folder / "weights.npz") as file:
            return dict(file)

    def batch_of_images(self) -> tuple[np.ndarray, np.ndarray]:
        """Images (B, 3, H, W) float32 and labels (B,) int64."""
        with np.load(self.folder / "batch.npz") as file:
            return file["images"], file["labels"]


@dataclass(frozen=True)
class Rival:
    """How one framework builds and runs a training step.

    Attributes:
        name: as in the table.
        version: of the framework.
        build: writes what a device must hold into a folder.
        load: opens that folder.
        notes: what a reader of the table must know.
        warm_up: steps before the clock starts.
        networks: those that it is measured on.
    """

    name: str
    version: str
    build: Callable[[Task, Path], None]
    load: Callable[[Task, Path], Session]
    notes: str = ""
    warm_up: int = 4
    networks: tuple[str, ...] = NETWORKS


class Memory:
    """Peak resident memory above where the process was when this began."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        self._idle = _status("VmRSS")

    def peak_mb(self) -> float:
        """MiB above idle."""
        return round((_status("VmHWM") - self._idle) / 1024, 1)


def digest(names: tuple[str, ...]) -> str:
    """A short name for the state of these scripts, so that nothing stale is measured."""
    return hashlib.sha256(b"".join((HERE / name).read_bytes() for name in names)).hexdigest()[:12]


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def main(rival: Rival) -> None:
    """The command line of a rival's script: builds if needed, measures, prints one line of JSON."""
    task, build_only, prepare = _arguments(rival)
    heading = {"rival": rival.name, "version": rival.version, "network": task.network, "plan": task.plan}
    with _only_our_line() as lines:
        try:
            if build_only:
                result = build(rival, task, build_only)
            else:
                result = {"program_bytes": size_of(_built(rival, task))} if prepare else measure(rival, task)
        except Exception as error:  # anything a framework raises is a row of the table
            text = str(error) if isinstance(error, RivalError) else f"{type(error).__name__}: {error}"
            result = {"error": " ".join(text.split())[:300]}
        lines.append(json.dumps({**heading, "notes": rival.notes, **result}))


def build(rival: Rival, task: Task, folder: Path) -> dict[str, Any]:
    """Writes what a device must hold; the folder has its final name only when it is complete."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    rival.build(task, partial)
    partial.rename(folder)
    return {"program_bytes": size_of(folder)}


def measure(rival: Rival, task: Task) -> dict[str, Any]:
    """Times steps on one repeated batch, and checks that they were training."""
    folder = _built(rival, task)
    images, labels = task.batch_of_images()
    memory = Memory()
    session = rival.load(task, folder)
    losses = [session.loss(images, labels) for _ in range(2)]
    for _ in range(task.warm_up - len(losses)):
        session.step(images, labels)
    seconds = []
    for _ in range(task.repeat):
        start = time.perf_counter()
        session.step(images, labels)
        seconds.append(time.perf_counter() - start)
    resident = memory.peak_mb()
    check_training(task, losses, session.parameters())
    return {
        "seconds": statistics.median(seconds), "fastest": min(seconds), "all": [round(s, 6) for s in seconds],
        "resident_mb": resident, "program_bytes": size_of(folder), "losses": losses,
    }  # fmt: skip


def check_training(task: Task, losses: list[float], after: Mapping[str, np.ndarray]) -> None:
    """Raises unless the losses and the parameters are those of this plan's training.

    Args:
        task: has autograd's first losses and the parameters before training.
        losses: before the first and before the second step, on the same batch.
        after: the parameters that can be read back; compared as sorted values, as layouts differ.

    Raises:
        RivalError: says which check failed.
    """
    expected = task.graph["losses"]
    if not abs(losses[0] - expected[0]) <= TOLERANCE:
        raise RivalError(f"the first loss is {losses[0]:.4f} where PyTorch has {expected[0]:.4f}")
    fall, wanted = losses[0] - losses[1], expected[0] - expected[1]
    if not abs(fall - wanted) <= SLACK * wanted:
        raise RivalError(f"the first step takes {fall:.2e} off the loss where autograd's takes {wanted:.2e}")
    before, trained = task.weights(), set(task.trained)
    for name, value in after.items():
        changed = not np.array_equal(np.sort(before[name], None), np.sort(np.asarray(value), None))
        if changed != (name in trained):
            raise RivalError(f"{name} {'changed though frozen' if changed else 'did not change though trained'}")


def _built(rival: Rival, task: Task) -> Path:
    """The folder with what a device must hold; made in a process of its own when it is not there."""
    if task.network not in rival.networks:
        raise RivalError(f"left out: a step takes too long, see {', '.join(rival.networks)}")
    script = Path(sys.argv[0]).resolve()
    folder = task.folder / f"{rival.name}-{rival.version}-{digest(('measure.py', script.name))}"
    if not folder.exists():
        done = subprocess.run([sys.executable, script, *sys.argv[1:], "--build", folder], stdout=subprocess.PIPE)
        if not folder.exists():
            answer = done.stdout.decode().strip().splitlines()
            raise RivalError(json.loads(answer[-1])["error"] if answer else f"building ended with {done.returncode}")
    return folder


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1])


def parser(name: str) -> argparse.ArgumentParser:
    """The options that every rival's script has."""
    parser = argparse.ArgumentParser(description=f"One training step in {name}; prints one line of JSON.")
    parser.add_argument("--network", required=True, choices=NETWORKS)
    parser.add_argument("--plan", required=True, choices=["all", "centre", "last", "head"])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument("--prepare", action="store_true", help="only make what is measured, where it is not there")
    return parser


def _arguments(rival: Rival) -> tuple[Task, Path | None, bool]:
    arguments = parser(rival.name)
    arguments.add_argument("--build", type=Path, metavar="FOLDER", help="only write what a device must hold")
    options = vars(arguments.parse_args())
    build_only, prepare = options.pop("build"), options.pop("prepare")
    return Task(**options, warm_up=rival.warm_up), build_only, prepare


class _only_our_line:  # noqa: N801 - reads as a function
    """Sends what frameworks print to stderr; what is appended is printed at the end."""

    def __enter__(self) -> list[str]:
        self._lines: list[str] = []
        sys.stdout.flush()
        self._stdout = os.dup(1)
        os.dup2(2, 1)
        return self._lines

    def __exit__(self, *_: object) -> None:
        sys.stdout.flush()
        os.dup2(self._stdout, 1)
        for line in self._lines:
            print(line, flush=True)
