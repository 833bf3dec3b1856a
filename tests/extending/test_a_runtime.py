"""Adding a runtime to the device side: a module with ``load``, and its name in ``runtimes.MODULES``.

The one here is numpy's; a module of your own does the same with ONNX Runtime, NCNN, or a vendor's library. The cloud
side needs ``export(graphs, target)`` beside the others in `pocketstep/export` to write its file.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import toy

from pocketstep_device import Learner
from pocketstep_device.bundle import Bundle
from pocketstep_device.errors import InputError
from pocketstep_device.runtimes import MODULES, Program


def load(bundle: Bundle, file: str, threads: int) -> Program:
    """A program that answers ``call(signature, inputs)`` with arrays in the manifest's order."""
    return toy.ToyProgram(bundle)


@pytest.fixture
def numpy_runtime(monkeypatch: pytest.MonkeyPatch) -> str:
    module = ModuleType("my_runtime")
    module.__dict__["load"] = load
    monkeypatch.setitem(sys.modules, "my_runtime", module)
    monkeypatch.setitem(MODULES, "numpy", "my_runtime")
    return "numpy"


def test_a_device_learns_on_it(tmp_path: Path, numpy_runtime: str) -> None:
    bundle = toy.toy_bundle(tmp_path / "toy.bundle", runtimes=("litert", numpy_runtime))
    with Learner.open(bundle, tmp_path / "state", runtime=numpy_runtime) as learner:
        learner.add_class("striped")
        learner.observe(toy.images("striped", 40), "striped")
        assert learner.update().accepted
        assert learner.classify(toy.images("striped", 20, seed=1)).labels.count("striped") >= 18


def test_a_bundle_without_its_program_says_so(tmp_path: Path, numpy_runtime: str) -> None:
    with pytest.raises(InputError, match="no program for numpy"):
        Learner.open(toy.toy_bundle(tmp_path / "toy.bundle"), tmp_path / "state", runtime=numpy_runtime)
