"""What measures: one runtime with one number of threads, in a process of its own.

    python -m pocketstep.bench.worker

takes one order a line on stdin, a JSON object with ``do`` and its arguments, and answers with one JSON object a line.
Thread pools and arenas are a process's, so two measurements share one only where they share everything.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pocketstep.bench.inputs import Call, first_calls
from pocketstep_device.budget import Budget, peak_mb, resident_mb
from pocketstep_device.bundle import Bundle
from pocketstep_device.errors import InputError, MissingToolError, PocketstepError
from pocketstep_device.forecast import forecast
from pocketstep_device.heap import return_large_blocks
from pocketstep_device.learner import Learner
from pocketstep_device.machine import Machine
from pocketstep_device.manifest import Manifest
from pocketstep_device.shipped import cloud_samples

LIBRARIES = {
    "litert": ("ai_edge_litert.interpreter",),
    "executorch": ("torch", "executorch.extension.pybindings._C"),
}
"""What a runtime imports before it loads a program."""

UPDATE_METHOD = "auto"
UPDATE_STEPS = 8
"""Steps of a phase, at most: more take no more memory."""
_CLEAR_REFS = Path("/proc/self/clear_refs")


class Worker:
    """Carries out orders; a method is an order."""

    def __init__(self) -> None:
        self._machine: Machine | None = None
        self._calls: dict[str, Call] = {}

    def open(self, bundle: str, runtime: str, threads: int) -> dict[str, Any]:
        """Loads a program and runs every signature, as far as the golden trace goes to do so.

        Returns:
            ``worst``: the largest relative error against the golden trace.
        """
        opened = Bundle.open(bundle)
        self._machine = Machine(opened, runtime, threads)
        self._calls = first_calls(opened, self._machine)
        return {"worst": max(call.error for call in self._calls.values())}

    def measure(self, repeat: int) -> dict[str, Any]:
        """Times every signature after one call that does not count.

        Returns:
            ``seconds``: of each of ``repeat`` calls, by signature.
        """
        assert self._machine is not None
        gc.collect()
        gc.disable()
        seconds: dict[str, list[float]] = {}
        for name, call in self._calls.items():
            self._machine.run(name, call.inputs)
            seconds[name] = []
            for _ in range(repeat):
                start = time.perf_counter()
                self._machine.run(name, call.inputs)
                seconds[name].append(time.perf_counter() - start)
        gc.enable()
        return {"seconds": seconds}

    def memory(
        self, bundle: str, runtime: str, threads: int, signatures: Sequence[str], calls: int, whole: bool = False
    ) -> dict[str, Any]:
        """Loads the program and calls signatures in turn; ``whole``: of one LiteRT interpreter, as an app has it.

        Returns:
            ``resident_mb``: peak resident memory above idle (runtime imported, bundle checked, inputs made), MiB.

        Raises:
            MissingToolError: the system is no Linux, so nobody says what the peak was.
        """
        import_runtime(runtime)
        opened = Bundle.open(bundle)
        inputs = {name: _ones(opened, name) for name in signatures}
        idle = _settle()
        machine = Machine(opened, runtime, threads)
        if whole:
            machine.program = _WholeLiteRt(opened, threads)
        for name in signatures:
            for _ in range(calls):
                machine.run(name, inputs[name])
        return {"resident_mb": peak_mb() - idle}

    def update(self, bundle: str, runtime: str, threads: int, images: int) -> dict[str, Any]:
        """Opens a learner, observes noise as a new class and updates: all phases, a few steps of each.

        Returns:
            ``resident_mb``: peak resident memory above idle, as for ``memory``; ``forecast_mb``: what the device would
            have said before; MiB.
        """
        import_runtime(runtime)
        opened = Bundle.open(bundle)
        manifest = opened.manifest
        noise = np.random.default_rng(0).integers(0, 256, (images, *manifest.task.input.shape), np.uint8)
        training = manifest.schedules[UPDATE_METHOD].training
        found = forecast(manifest, runtime, len(cloud_samples(opened)), images, training)
        idle = _settle()
        with tempfile.TemporaryDirectory() as state, Learner.open(bundle, state, runtime, threads) as learner:
            _observe(learner, noise)
            before = peak_mb()
            learner.manifest = _shortened(learner.manifest)
            learner.update(method=UPDATE_METHOD)
            peak = max(before, peak_mb())
        return {"resident_mb": peak - idle, "forecast_mb": found.memory / 2**20}

    def learn(
        self, bundle: str, runtime: str, threads: int, images: int, method: str, seconds: float | None
    ) -> dict[str, Any]:
        """As ``update``, but a whole one within a budget, timed from the first image to the answer.

        Freed memory goes back to the system, as in ``pocketstep-device learn``.

        Returns:
            ``resident_mb``: as for ``update``; ``seconds``: of observing and updating, programs being loaded in them.
        """
        import_runtime(runtime)
        return_large_blocks()
        shape = Bundle.open(bundle).manifest.task.input.shape
        noise = np.random.default_rng(0).integers(0, 256, (images, *shape), np.uint8)
        idle = _settle()
        with tempfile.TemporaryDirectory() as state, Learner.open(bundle, state, runtime, threads) as learner:
            start = time.perf_counter()
            _observe(learner, noise)
            before, observed = peak_mb(), time.perf_counter() - start
            learner.update(Budget(seconds=seconds and max(0.1, seconds - observed)), method=method)
            took = time.perf_counter() - start
            return {"resident_mb": max(before, peak_mb()) - idle, "seconds": took}

    def profile(self, bundle: str, signature: str, threads: int) -> dict[str, Any]:
        """Where the time of one signature goes in LiteRT; see :mod:`pocketstep.bench.profile`."""
        from pocketstep.bench.profile import profile

        opened = Bundle.open(bundle)
        program = opened.read(opened.manifest.runtimes["litert"].file)
        inputs = first_calls(opened, Machine(opened, "litert", threads))[signature].inputs
        ordered = [inputs[spec.name] for spec in opened.manifest.signatures[signature].inputs]
        return profile(program, signature, ordered, threads)


class _WholeLiteRt:
    """A ``.tflite`` program with all its signatures in one interpreter, which keeps them."""

    def __init__(self, bundle: Bundle, threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        file = bundle.manifest.runtimes["litert"].file
        path = bundle.file_path(file)
        source = {"model_path": str(path)} if path else {"model_content": bundle.read(file)}
        self._interpreter: Any = Interpreter(**source, num_threads=threads)

    def call(self, signature: str, inputs: Sequence[Any]) -> list[Any]:
        feed = {f"args_{index}": array for index, array in enumerate(inputs)}
        results = self._interpreter.get_signature_runner(signature)(**feed)
        return [results[f"output_{index}"] for index in range(len(results))]


def _observe(learner: Learner, images: npt.NDArray[np.uint8]) -> None:
    name = learner.classes[0]
    if learner.free_slots:
        name = "noise"
        learner.add_class(name)
    learner.observe(images, name)


def _shortened(manifest: Manifest) -> Manifest:
    """With fewer steps a phase: not less time, in which a slow machine would leave phases out."""
    schedule = manifest.schedules[UPDATE_METHOD]
    phases = [
        {**phase, "max_steps": min(float(str(phase.get("max_steps", UPDATE_STEPS))), UPDATE_STEPS)}
        if phase["kind"] == "train"
        else phase
        for phase in schedule.phases
    ]
    return replace(manifest, schedules={UPDATE_METHOD: replace(schedule, phases=tuple(phases))})


def import_runtime(runtime: str) -> None:
    """Imports a runtime's libraries.

    Raises:
        InputError: unknown runtime.
        MissingToolError: it is not installed.
    """
    if runtime not in LIBRARIES:
        raise InputError(f"unknown runtime '{runtime}'; choose from {', '.join(LIBRARIES)}")
    try:
        for library in LIBRARIES[runtime]:
            import_module(library)
    except ImportError:
        raise MissingToolError(f"{runtime} is not installed; pip install 'pocketstep-device[{runtime}]'") from None


def _ones(bundle: Bundle, signature: str) -> dict[str, Any]:
    """Inputs of the right shapes; values do not matter to memory, and reading a trace would leave holes in the heap."""
    return {spec.name: np.ones(spec.shape, np.float32) for spec in bundle.manifest.signatures[signature].inputs}


def _settle() -> float:
    """Gives free memory back, starts the peak anew, and returns what is resident now, MiB."""
    if platform.system() != "Linux" or not _CLEAR_REFS.exists():
        raise MissingToolError("peak memory is read from Linux's /proc, which this system lacks; measure on Linux")
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc: else the program's first MiB hide in free blocks
    if trim is not None:
        trim(0)
    try:
        _CLEAR_REFS.write_text("5")
    except OSError as error:
        raise MissingToolError(f"{_CLEAR_REFS} cannot be written ({error}); run outside of this container") from error
    return resident_mb()


def main() -> int:
    """Answers orders until stdin ends; libraries that print to stdout print to stderr here."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker = Worker()
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = getattr(worker, order.pop("do"))(**order)
        except PocketstepError as error:
            answer = {"error": str(error), "exit_code": error.exit_code}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
