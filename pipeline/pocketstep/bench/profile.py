"""Where the time of a LiteRT signature goes: every different operator timed alone, times how often it occurs.

An operator is timed as several copies side by side in one model, so that starting a run does not count as work. What
the sum leaves out or adds: operators that XNNPACK fuses, caches that are warm alone and cold in a program, and
hand-overs between XNNPACK and LiteRT's own kernels.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pocketstep.bench.operators import Operator
from pocketstep.export.delegation import ask, pack_model, read_model, single_signature
from pocketstep_device.runtimes import Array

ROUNDS = 3
"""Everything is timed so often, in turn, and the median taken: a machine's bad moment hits one round only."""
SECONDS, RUNS, FEWEST = 0.03, 30, 3
"""In a round a model is run until it took so long or ran so often, and at least so often."""


@dataclass(frozen=True)
class Group:
    """Operators of one signature that are the same but for their weights and variables.

    Attributes:
        kind: LiteRT's name of the operator.
        shapes: of inputs and output; constants in brackets.
        count: how many there are.
        xnnpack: whether XNNPACK takes them.
        macs: multiply-accumulates of one; 0 where it multiplies nothing.
        ms: estimated milliseconds of all of them.
    """

    kind: str
    shapes: str
    count: int
    xnnpack: bool
    macs: int
    ms: float


def profile(tflite: bytes, signature: str, inputs: Sequence[Array], threads: int) -> dict[str, Any]:
    """Takes a signature apart and times it.

    Args:
        tflite: the program file's bytes.
        signature: one of its signatures.
        inputs: its inputs in order, for the time of the whole.
        threads: CPU threads.

    Returns:
        ``whole_ms``; ``delegates``, how many; ``operators``: groups as dictionaries, the longest first.
    """
    model = single_signature(read_model(tflite), signature)
    _, delegates, taken = ask(model)
    tensors = {entry.name.decode(): entry.tensorIndex for entry in model.signatureDefs[0].inputs}
    fed = {tensors[f"args_{index}"]: value for index, value in enumerate(inputs)}
    whole = pack_model(model)
    same = _grouped(model, taken)
    alone = {key: members[0].alone() for key, members in same.items()}
    wholes: list[float] = []
    parts: dict[Any, list[float]] = {key: [] for key in same}
    for _ in range(ROUNDS):
        wholes.append(seconds_of_a_run(whole, fed, threads))
        for key, (program, copies) in alone.items():
            parts[key].append(seconds_of_a_run(program, {}, threads) / copies)
    groups = [_group(same[key], key[1], statistics.median(seconds)) for key, seconds in parts.items()]
    groups.sort(key=lambda group: -group.ms)
    return {
        "whole_ms": statistics.median(wholes) * 1e3,
        "delegates": delegates,
        "operators": [asdict(group) for group in groups],
    }


def _grouped(model: Any, taken: set[int]) -> dict[Any, list[Operator]]:
    """Operators that take the same time, under their key and whether XNNPACK takes them."""
    same: dict[Any, list[Operator]] = {}
    for index in range(len(model.subgraphs[0].operators)):
        operator = Operator(model, index)
        same.setdefault((operator.key, index in taken), []).append(operator)
    return same


def _group(members: Sequence[Operator], xnnpack: bool, seconds: float) -> Group:
    first, count = members[0], len(members)
    return Group(first.kind, first.shapes, count, xnnpack, first.macs, seconds * count * 1e3)


def seconds_of_a_run(program: bytes, fed: Mapping[int, Array], threads: int) -> float:
    """Median seconds of one run of a model's first subgraph.

    Args:
        program: a ``.tflite`` file's bytes.
        fed: tensor's index -> value; inputs without one are random.
        threads: CPU threads.
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=program, num_threads=threads)
    interpreter.allocate_tensors()
    generator = np.random.default_rng(0)
    for detail in interpreter.get_input_details():
        given = fed.get(detail["index"])
        value = generator.uniform(0.1, 1, detail["shape"]) if given is None else given
        interpreter.set_tensor(detail["index"], np.asarray(value, detail["dtype"]))
    interpreter.invoke()
    seconds: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(seconds) < FEWEST or (len(seconds) < RUNS and time.perf_counter() < end):
        start = time.perf_counter()
        interpreter.invoke()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
