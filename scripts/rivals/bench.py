"""Runs every rival in rounds on the same network, plan, batch and threads; one table in the end."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import measure
import networks
import table

PLANS = ("all", "centre", "last", "head")
TABLE = {"small": PLANS, "resnet18": ("centre", "last"), "mobilenet_v2": ("centre", "last")}
"""What is compared unless asked for otherwise."""
LIMIT = 1800  # seconds for one script, building included


@dataclass(frozen=True)
class Entry:
    """How one row is measured.

    Attributes:
        script: in this folder.
        environment: under `.venv-rivals`; None is the cloud environment.
        options: of the script, beside the common ones.
        later: further options of every round but the first; None where one round has to do.
        repeat: steps, where fewer than asked for have to do.
    """

    script: str
    environment: str | None = None
    options: list[str] = field(default_factory=list)
    later: list[str] | None = field(default_factory=list)
    repeat: int | None = None


RIVALS = {
    "onnxruntime": Entry("ort_training.py", "onnxruntime"),
    "mnn": Entry("mnn_training.py", "mnn"),
    "tflite-flex": Entry("tflite_flex.py", "tensorflow"),
    "pytorch": Entry("pytorch_eager.py"),
    "executorch-stock": Entry("executorch_stock.py", later=None, repeat=1),
    "pocketstep-litert": Entry("pocketstep_bundle.py", options=["--runtime", "litert"], later=["--skip-memory"]),
    "pocketstep-litert-cheap": Entry(
        "pocketstep_bundle.py", options=["--runtime", "litert", "--cheap"], later=["--skip-memory"]
    ),
    "pocketstep-executorch": Entry(
        "pocketstep_bundle.py", options=["--runtime", "executorch"], later=["--skip-memory"]
    ),
    "pocketstep-executorch-cheap": Entry(
        "pocketstep_bundle.py", options=["--runtime", "executorch", "--cheap"], later=["--skip-memory"]
    ),
}


def main() -> None:
    """Measures, prints, writes."""
    options = _arguments()
    before = os.getloadavg()[0]
    pythons = {name: python_of(RIVALS[name]) for name in options.rivals}
    pairs = [(network, plan) for network in options.networks for plan in options.plans or TABLE[network]]
    if options.prepare:
        options.rounds = 1
    progress = Progress(len(pairs) * len(pythons) * options.rounds)
    results = [result for pair in pairs for result in _rounds(*pair, pythons, options, progress)]
    if options.prepare:
        return
    machine = {**_machine(), "load": [round(before, 1), round(os.getloadavg()[0], 1)], "threads": options.threads}
    rows = table.rows(results)
    if options.out:
        options.out.write_text(json.dumps({"machine": machine, "rows": rows, "measurements": results}, indent=1))
    print(table.markdown(rows, machine) if options.markdown else table.text(rows, machine))


def _rounds(
    network: str, plan: str, pythons: dict[str, Any], options: argparse.Namespace, progress: Progress
) -> list[dict[str, Any]]:
    """All measurements of one network and plan: every rival in every round, so that noise hits all alike."""
    results: list[dict[str, Any]] = []
    failed: set[str] = set()
    for number in range(options.rounds):
        for name, python in pythons.items():
            entry = RIVALS[name]
            progress.done += 1
            if name in failed or (number and entry.later is None):
                continue
            start = time.perf_counter()
            result = {"rival": name, "network": network, "plan": plan, "round": number}
            result |= _run(entry, python, network, plan, entry.later if number else None, options)
            results.append(result)
            failed |= {name} if "error" in result else set()
            progress.tell(result, time.perf_counter() - start)
    return results


def _run(
    entry: Entry, python: Path | str, network: str, plan: str, later: list[str] | None, options: argparse.Namespace
) -> dict[str, Any]:
    """What a rival's script answers; an error where there is no answer."""
    if isinstance(python, str):
        return {"error": python}
    batch = options.batch or networks.BATCHES[network]
    wanted = {"network": network, "plan": plan, "batch": batch, "threads": options.threads}
    wanted["repeat"] = entry.repeat or options.repeat
    command: list[str | Path] = [python, measure.HERE / entry.script]
    command += ["--prepare"] if options.prepare else []
    command += [*(f"--{key}={value}" for key, value in wanted.items()), *entry.options, *(later or [])]
    log = measure.WORK / "log" / f"{entry.script.removesuffix('.py')}-{network}-{plan}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        with log.open("w") as stderr:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=stderr, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {LIMIT} seconds"}
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        return {"error": f"no answer, it ended with {done.returncode}; see {log.relative_to(measure.ROOT)}"}
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer


def python_of(entry: Entry) -> Path | str:
    """The interpreter of a rival's environment, made if needed; a sentence where it cannot be made."""
    if entry.environment is None:
        return measure.CLOUD_PYTHON
    command: list[str | Path] = [measure.HERE / "make_environment", entry.environment]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return f"cannot be installed: {' '.join(lines[-1].split()) if lines else done.returncode}"
    return measure.ROOT / ".venv-rivals" / entry.environment / "bin" / "python"


@dataclass
class Progress:
    """How far it is, for people.

    Attributes:
        total: measurements, those among them that are left out.
        done: of them.
    """

    total: int
    done: int = 0
    start: float = field(default_factory=time.perf_counter)

    def tell(self, result: dict[str, Any], took: float) -> None:
        """What was measured just now, and how long the rest may take."""
        ready = f"{result['seconds'] * 1000:.1f} ms a step" if "seconds" in result else "ready"
        heading = f"round {result['round'] + 1}, {result['network']} {result['plan']}, {result['rival']}"
        left = (time.perf_counter() - self.start) / self.done * (self.total - self.done) / 60
        where = f"[{self.done}/{self.total}, about {left:.0f} min left]"
        print(f"{where} {heading}: {result.get('error') or ready} ({took:.0f} s)", file=sys.stderr, flush=True)


def _machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown CPU")
    return {"cpu": model, "cores": os.cpu_count()}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench_rivals", description=__doc__)
    for name, known in (("networks", tuple(networks.INPUTS)), ("rivals", tuple(RIVALS))):
        parser.add_argument(f"--{name}", type=_names(known), default=list(known), help=f"of {','.join(known)}")
    parser.add_argument("--plans", type=_names(PLANS), help=f"of {','.join(PLANS)} (default: the README's table)")
    parser.add_argument("--prepare", action="store_true", help="only make what is measured; needs no quiet machine")
    parser.add_argument("--batch", type=int, help="default: 32 for small, else 16")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU (default 2)")
    parser.add_argument("--repeat", type=int, default=20, help="steps of a rival in a round (default 20)")
    parser.add_argument("--rounds", type=int, default=3, help="over everything that is compared (default 3)")
    parser.add_argument("--out", type=Path, help="also write all measurements as JSON")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    return parser.parse_args()


def _names(known: tuple[str, ...]) -> Any:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"'{name}' is none of {', '.join(known)}")
        return names

    return parse


if __name__ == "__main__":
    main()
