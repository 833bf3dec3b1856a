"""Seconds of every signature, side by side: a process each for every bundle, runtime and number of threads.

Rounds go through all processes in turn, so that a machine's slow minute hits everyone; what is compared are medians
over all rounds. A *forward pass* is one ``encode`` and one ``classify`` of the same images.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pocketstep.bench.host import machine, runtimes_of
from pocketstep.bench.process import WorkerProcess
from pocketstep_device.bundle import Bundle
from pocketstep_device.errors import InputError

OnStage = Callable[[str], None]
_COMPARED = ("encode", "classify", "step")


@dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
        runtimes: names, or None for all of each bundle.
        threads: CPU threads, one measurement each.
        repeat: calls of every signature in a round.
        rounds: how often all are measured in turn.
        profile: whether to take the step apart as well.
    """

    runtimes: Sequence[str] | None = None
    threads: Sequence[int] = (1, 2)
    repeat: int = 10
    rounds: int = 5
    profile: bool = False


@dataclass
class _Entry:
    """One bundle on one runtime with one number of threads."""

    bundle: Bundle
    runtime: str
    threads: int
    worker: WorkerProcess
    worst: float = 0.0
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def open(self) -> None:
        path = str(self.bundle.path)
        self.worst = self.worker.ask("open", bundle=path, runtime=self.runtime, threads=self.threads)["worst"]

    def measure(self, repeat: int) -> None:
        for name, seconds in self.worker.ask("measure", repeat=repeat)["seconds"].items():
            self.seconds.setdefault(name, []).extend(seconds)

    def row(self) -> dict[str, Any]:
        manifest = self.bundle.manifest
        seconds = {name: statistics.median(values) for name, values in self.seconds.items()}
        encode, classify, step = (seconds[name] / manifest.signatures[name].batch for name in _COMPARED)
        passes = step / (encode + classify)
        plain = seconds["plain"] / manifest.signatures["plain"].batch if "plain" in seconds else None
        forward_macs, step_macs = manifest.cost.get("macs.forward"), manifest.cost.get("macs.step")
        exact = step_macs / forward_macs if forward_macs and step_macs else None
        return {
            "bundle": str(self.bundle.path),
            "runtime": self.runtime,
            "threads": self.threads,
            "batch": manifest.signatures["step"].batch,
            "seconds": seconds,
            "fastest": {name: min(values) for name, values in self.seconds.items()},
            "forward_passes": passes,
            "suffix_passes": step / classify,
            "exact_forward_passes": exact,
            "over_exact": passes / exact if exact else None,
            "over_plain": (encode + classify) / plain if plain else None,
            "macs_per_second": forward_macs / (encode + classify) if forward_macs else None,
            "largest_error": self.worst,
        }


def measure(paths: Sequence[Path], options: Options, on_stage: OnStage) -> dict[str, Any]:
    """Measures all bundles on all runtimes with all numbers of threads.

    Args:
        paths: the bundles.
        options: see there.
        on_stage: told what is being done.

    Returns:
        ``machine``, ``repeat``, ``rounds``; ``rows`` with ``bundle``, ``runtime``, ``threads``, ``batch`` (of the
        step), ``seconds`` and ``fastest`` (median and shortest call, by signature), ``forward_passes`` (a step in
        forward passes of as many images), ``suffix_passes`` (in calls of classify alone), ``exact_forward_passes``
        (by arithmetic; None where the manifest does not say), ``over_exact`` (measured over exact: how much longer
        the step takes than its arithmetic would at the forward pass's speed), ``over_plain`` (encode and classify
        over the network as it is, where the bundle has it), ``macs_per_second`` (of the forward pass),
        ``largest_error`` (against the golden trace's first calls), ``speed_up`` (one thread's step over this one's;
        None without) and ``of_first`` (this step over the first row's). With ``options.profile`` also
        ``profiles``: what :func:`pocketstep.bench.profile.profile` says of LiteRT's step, by bundle and threads.

    Raises:
        InputError: a bundle cannot be read, or lacks a runtime or signature that is wanted.
        MissingToolError: a runtime is not installed.
        CheckFailedError: a worker died.
    """
    if options.repeat < 1 or options.rounds < 1 or not options.threads or min(options.threads) < 1:
        raise InputError("--threads, --repeat and --rounds must be 1 or more")
    bundles, host = [_opened(path) for path in paths], machine()
    with ExitStack() as stack:
        entries = [
            _Entry(bundle, runtime, threads, stack.enter_context(WorkerProcess(f"{bundle.path} on {runtime}")))
            for bundle in bundles
            for runtime in runtimes_of(bundle, options.runtimes)
            for threads in options.threads
        ]
        for entry in entries:
            on_stage(f"load {entry.bundle.path.name} on {entry.runtime}, threads {entry.threads}")
            entry.open()
        for number in range(options.rounds):
            on_stage(f"round {number + 1} of {options.rounds}")
            for entry in entries:
                entry.measure(options.repeat)
    rows = _compared([entry.row() for entry in entries])
    result = {"machine": host, "repeat": options.repeat, "rounds": options.rounds, "rows": rows}
    if options.profile:
        result["profiles"] = list(_profiles(bundles, options.threads, on_stage))
    return result


def _opened(path: Path) -> Bundle:
    bundle = Bundle.open(path)
    if missing := [name for name in _COMPARED if name not in bundle.manifest.signatures]:
        raise InputError(f"{path} has no signature '{missing[0]}'; build it again with this pocketstep")
    return bundle


def _compared(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Adds ``speed_up`` (one thread's step over this one's; None without) and ``of_first`` (over the first row's)."""
    alone = {(r["bundle"], r["runtime"]): r["seconds"]["step"] for r in rows if r["threads"] == 1}
    for r in rows:
        step, single = r["seconds"]["step"], alone.get((r["bundle"], r["runtime"]))
        r["speed_up"] = single / step if single and r["threads"] > 1 else None
        r["of_first"] = step / rows[0]["seconds"]["step"]
    return rows


def _profiles(bundles: Sequence[Bundle], threads: Sequence[int], on_stage: OnStage) -> Iterator[dict[str, Any]]:
    for bundle in bundles:
        for count in threads:
            if "litert" not in bundle.manifest.runtimes:
                continue
            on_stage(f"take the step of {bundle.path.name} apart, threads {count}")
            with WorkerProcess(f"the operators of {bundle.path}") as worker:
                found = worker.ask("profile", bundle=str(bundle.path), signature="step", threads=count)
            yield {"bundle": str(bundle.path), "runtime": "litert", "threads": count, "signature": "step", **found}
