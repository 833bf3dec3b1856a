"""``pocketstep bench``: side by side in processes of their own, memory, profile, and what XNNPACK takes."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from pocketstep.bench import memory, step
from pocketstep.bench.inputs import Call, first_calls
from pocketstep.bench.operators import Operator
from pocketstep.bench.process import WorkerProcess
from pocketstep.bench.profile import profile, seconds_of_a_run
from pocketstep.bench.step import Options
from pocketstep.bench.tables import machine_line, memory_table, profile_tables, step_table
from pocketstep.cli_bench import bench
from pocketstep.export.delegation import ask, delegation, pack_model, read_model, single_signature
from pocketstep_device.bundle import Bundle
from pocketstep_device.bundle_writer import write_bundle
from pocketstep_device.errors import CheckFailedError, InputError
from pocketstep_device.machine import Machine

FORWARD, STEP = 1000.0, 750.0


@pytest.fixture(scope="module")
def program(bundle_path: Path) -> bytes:
    return Bundle.open(bundle_path).read("program.tflite")


@pytest.fixture(scope="module")
def two_bundles(bundle_path: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One that says what its arithmetic is, and an older one."""
    folder = tmp_path_factory.mktemp("bundles")
    manifest = json.loads((bundle_path / "manifest.json").read_text())
    files = {name: bundle_path / name for name in manifest.pop("files")}
    cost = {"macs.forward": FORWARD, "macs.step": STEP}
    write_bundle(folder / "new.bundle", {**manifest, "cost": cost}, files)
    write_bundle(folder / "old.bundle", {**manifest, "cost": {}}, files)
    return [folder / "new.bundle", folder / "old.bundle"]


def printed(*parts: Any) -> str:
    from rich.console import Console

    file = io.StringIO()
    console = Console(width=220, file=file)
    for part in parts:
        console.print(part, markup=False)
    return file.getvalue()


def calls_of(bundle: Bundle) -> dict[str, Call]:
    return first_calls(bundle, Machine(bundle, "litert", 1))


def nothing(stage: str) -> None:
    assert stage


def test_steps_side_by_side(two_bundles: list[Path]) -> None:
    result = step.measure(two_bundles, Options(["litert"], [1, 2], repeat=2, rounds=2), nothing)
    assert result == json.loads(json.dumps(result))
    assert result["machine"]["cores"] >= 1
    rows = result["rows"]
    assert [(Path(r["bundle"]).name, r["threads"]) for r in rows] == [
        ("new.bundle", 1), ("new.bundle", 2), ("old.bundle", 1), ("old.bundle", 2),
    ]  # fmt: skip
    for row in rows:
        seconds = row["seconds"]
        assert set(seconds) == set(Bundle.open(row["bundle"]).manifest.signatures)
        assert min(seconds.values()) > 0
        assert row["forward_passes"] == pytest.approx(seconds["step"] / (seconds["encode"] + seconds["classify"]))
        assert row["suffix_passes"] == pytest.approx(seconds["step"] / seconds["classify"])
        assert row["of_first"] == pytest.approx(seconds["step"] / rows[0]["seconds"]["step"])
        assert row["largest_error"] < 1e-4
        assert (row["speed_up"] is None) == (row["threads"] == 1)
    new, old = rows[0], rows[2]
    assert new["exact_forward_passes"] == STEP / FORWARD
    assert new["over_exact"] == pytest.approx(new["forward_passes"] / 0.75)
    forward = (new["seconds"]["encode"] + new["seconds"]["classify"]) / new["batch"]
    assert new["macs_per_second"] == pytest.approx(FORWARD / forward)
    assert old["exact_forward_passes"] is old["over_exact"] is old["macs_per_second"] is None
    shown = printed(step_table(result), machine_line(result["machine"]))
    for words in ("new.bundle", "passes", "over", "speed-up", "2 rounds of 2 calls", "cores"):
        assert words in shown


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_memory_of_every_signature(bundle_path: Path) -> None:
    result = memory.measure([bundle_path], ["litert"], 1, nothing)
    bundle = Bundle.open(bundle_path)
    found = {row["signature"]: row["resident_mb"] for row in result["rows"]}
    assert set(found) == {*bundle.manifest.signatures, "all", "update", *memory.LESSONS}
    assert all(0 < value < 500 for value in found.values())
    assert found["all"] >= max(value for name, value in found.items() if name in bundle.manifest.signatures)
    seconds = {row["signature"]: row["seconds"] for row in result["rows"] if row["seconds"] is not None}
    assert set(seconds) == set(memory.LESSONS)
    assert 0 < seconds["learn, closed form"] < seconds["learn, auto in 10 s"]
    assert {row["program_bytes"] for row in result["rows"]} == {bundle.manifest.files["program.tflite"].bytes}
    assert "program MiB" in printed(memory_table(result))
    folder = memory.program_bytes(bundle, "coreml")
    assert folder == sum(e.bytes for n, e in bundle.manifest.files.items() if n.startswith("program.mlpackage/"))


def test_first_calls_are_what_the_program_takes(bundle_path: Path) -> None:
    bundle = Bundle.open(bundle_path)
    found = calls_of(bundle)
    assert set(found) == set(bundle.manifest.signatures)
    for name, call in found.items():
        assert 0 < call.error < 1e-4
        shapes = {spec.name: tuple(spec.shape) for spec in bundle.manifest.signatures[name].inputs}
        assert {n: value.shape for n, value in call.inputs.items()} == shapes


def test_a_workers_troubles_are_errors(bundle_path: Path) -> None:
    with WorkerProcess("a bundle") as worker:
        with pytest.raises(InputError, match="There is no bundle at nowhere"):
            worker.ask("open", bundle="nowhere", runtime="litert", threads=1)
        with pytest.raises(InputError, match="unknown runtime 'abacus'"):
            worker.ask("memory", bundle=str(bundle_path), runtime="abacus", threads=1, signatures=[], calls=1)
        os.kill(worker._process.pid, signal.SIGKILL)
        with pytest.raises(CheckFailedError, match="measuring a bundle ended early"):
            worker.ask("measure", repeat=1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--threads", "two"], "give numbers with commas"),
        (["--threads", "0"], "must be 1 or more"),
        (["--rounds", "0"], "must be 1 or more"),
        (["--runtime", "abacus"], "unknown runtime 'abacus'"),
        (["--runtime", "coreml"], "unknown runtime 'coreml'"),
    ],
)
def test_wrong_use_of_step(bundle_path: Path, arguments: list[str], words: str) -> None:
    done = CliRunner().invoke(bench, ["step", str(bundle_path), *arguments])
    assert isinstance(done.exception, InputError)
    assert words in str(done.exception)


def test_one_json_object(bundle_path: Path) -> None:
    arguments = ["step", str(bundle_path), "--runtime", "litert", "--threads", "1", "--repeat", "1", "--rounds", "1"]
    done = CliRunner().invoke(bench, [*arguments, "--json"])
    assert done.exit_code == 0
    (row,) = json.loads(done.stdout)["rows"]
    assert row["runtime"] == "litert"


def test_where_the_time_goes(bundle_path: Path, program: bytes) -> None:
    bundle = Bundle.open(bundle_path)
    inputs = calls_of(bundle)["statistics"].inputs
    ordered = [inputs[spec.name] for spec in bundle.manifest.signatures["statistics"].inputs]
    found = profile(program, "statistics", ordered, 1)
    count = len(single_signature(read_model(program), "statistics").subgraphs[0].operators)
    assert sum(group["count"] for group in found["operators"]) == count
    assert found["delegates"] >= 1
    parts = sum(group["ms"] for group in found["operators"])
    assert 0.1 < parts / found["whole_ms"] < 10  # of microseconds: an order of magnitude, no more
    batch, features = inputs["features"].shape
    products = [group for group in found["operators"] if group["kind"] == "BATCH_MATMUL"]
    moment = inputs["second"].size * batch
    slots = inputs["labels"].shape[1]
    sums = slots * features * batch  # of each class; the samples of each are counted by a product, too
    assert (
        moment + sums <= sum(group["macs"] * group["count"] for group in products) <= moment + sums + 2 * slots * batch
    )
    shown = printed(*profile_tables({**found, "bundle": "x", "signature": "statistics", "threads": 1}))
    assert "BATCH_MATMUL" in shown
    assert "the whole" in shown


def test_operators_alone_compute_the_same_shapes(program: bytes) -> None:
    model = single_signature(read_model(program), "encode")
    for index in range(len(model.subgraphs[0].operators)):
        operator = Operator(model, index)
        alone, copies = operator.alone()
        single = read_model(alone)
        assert len(single.subgraphs[0].operators) == copies
        assert Operator(single, copies - 1).shapes == operator.shapes
        assert Operator(single, 0).key[1:] == Operator(single, copies - 1).key[1:]
        assert seconds_of_a_run(alone, {}, 1) > 0


def test_macs_are_counted_as_by_the_cost_model(bundle_path: Path, program: bytes) -> None:
    manifest = Bundle.open(bundle_path).manifest
    model = single_signature(read_model(program), "encode")
    operators = [Operator(model, i) for i in range(len(model.subgraphs[0].operators))]
    prefix = [
        p.shape for p in manifest.plan.parameters if p.name.startswith(("stem.", "group1.")) and len(p.shape) == 4
    ]
    pixels = math.prod(manifest.task.input.shape[:2])  # no stride before the cut
    expected = manifest.signatures["encode"].batch * pixels * sum(math.prod(shape) for shape in prefix)
    assert sum(operator.macs for operator in operators) == expected


Build = Callable[[list[str]], bytes]


@pytest.fixture
def chain() -> Build:
    """Builds a program of unary operators, one after another, with one signature."""
    from ai_edge_litert import schema_py_generated as schema

    def build(kinds: list[str]) -> bytes:
        model, graph = schema.ModelT(), schema.SubGraphT()
        model.version, model.buffers, model.subgraphs = 3, [schema.BufferT()], [graph]
        model.operatorCodes, graph.operators, graph.tensors = [], [], []
        for index in range(len(kinds) + 1):
            tensor = schema.TensorT()
            tensor.name, tensor.shape, tensor.type, tensor.buffer = f"t{index}", np.array([4, 8], np.int32), 0, 0
            graph.tensors.append(tensor)
        for index, kind in enumerate(kinds):
            code, operator = schema.OperatorCodeT(), schema.OperatorT()
            number = getattr(schema.BuiltinOperator, kind)
            code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), 1
            operator.opcodeIndex, operator.inputs, operator.outputs = index, [index], [index + 1]
            model.operatorCodes.append(code)
            graph.operators.append(operator)
        graph.inputs, graph.outputs = [0], [len(kinds)]
        entry, source, result = schema.SignatureDefT(), schema.TensorMapT(), schema.TensorMapT()
        source.name, source.tensorIndex, result.name, result.tensorIndex = "args_0", 0, "output_0", len(kinds)
        entry.signatureKey, entry.subgraphIndex, entry.inputs, entry.outputs = "run", 0, [source], [result]
        model.signatureDefs = [entry]
        return pack_model(model)

    return build


@pytest.mark.parametrize(
    ("kinds", "delegates", "outside"),
    [
        (["ABS", "RELU", "CEIL"], 1, []),
        (["ABS", "RELU_0_TO_1", "CEIL"], 2, ["RELU_0_TO_1"]),
        (["ZEROS_LIKE", "ABS", "RELU_0_TO_1", "RELU_0_TO_1", "CEIL"], 2, ["ZEROS_LIKE", "RELU_0_TO_1", "RELU_0_TO_1"]),
        (["RELU_0_TO_1"], 0, ["RELU_0_TO_1"]),
    ],
)
def test_what_xnnpack_takes(chain: Build, kinds: list[str], delegates: int, outside: list[str]) -> None:
    """RELU_0_TO_1 and ZEROS_LIKE are LiteRT's own; a delegate lies on either side."""
    assert delegation(chain(kinds), "run") == (delegates, outside)


def test_what_xnnpack_takes_of_a_bundle(bundle_path: Path, program: bytes) -> None:
    for name in Bundle.open(bundle_path).manifest.signatures:
        model = single_signature(read_model(program), name)
        names, delegates, taken = ask(model)
        assert names == [Operator(model, index).kind for index in range(len(names))]
        assert delegates >= 1
        alone = {Operator(model, i).key: Operator(model, i).alone()[0] for i in range(len(names)) if i not in taken}
        for left in alone.values():  # what it leaves in the program it leaves alone, too
            assert ask(read_model(left))[1] == 0


def test_a_cut_out_signature_computes_the_same(bundle_path: Path, program: bytes) -> None:
    from ai_edge_litert.interpreter import Interpreter

    bundle = Bundle.open(bundle_path)
    images = calls_of(bundle)["encode"].inputs["images"]
    alone = pack_model(single_signature(read_model(program), "encode"))
    assert len(alone) < len(program) / 10
    result = Interpreter(model_content=alone).get_signature_runner("encode")(args_0=images)
    expected = Machine(bundle, "litert", 1).run("encode", {"images": images})
    assert np.abs(result["output_0"] - expected["latents"]).max() <= 1e-5 * np.abs(expected["latents"]).max()


@pytest.mark.parametrize("data", [b"", b"1234TFL3", b"\xff" * 64, b"\x04\x00\x00\x00TFL3" + b"\xff" * 64])
def test_what_is_no_program(data: bytes) -> None:
    with pytest.raises(InputError, match="no LiteRT program"):
        read_model(data)


def test_a_signature_that_is_not_there(chain: Build) -> None:
    with pytest.raises(InputError, match="no signature 'step', only run"):
        delegation(chain(["ABS"]), "step")
    assert math.isfinite(seconds_of_a_run(chain(["ABS"]), {}, 1))
