from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from pocketstep_device.bundle import Bundle
from pocketstep_device.bundle_writer import write_bundle
from pocketstep_device.errors import BundleError
from pocketstep_device.golden import GOLDEN_FILE, TOLERANCE, CallReport, relative_error, replay
from pocketstep_device.machine import Machine
from pocketstep_device.tensors import read_tensors, write_tensors

SIGNATURES = {"encode", "classify", "statistics", "solve", "score", "step"}


@pytest.fixture(scope="module")
def bundle(bundle_path: Path) -> Bundle:
    return Bundle.open(bundle_path)


def worst_by_signature(calls: list[CallReport]) -> dict[str, float]:
    return {name: max(c.worst for c in calls if c.signature == name) for name in sorted(SIGNATURES)}


@pytest.mark.parametrize("runtime", ["litert", "executorch"])
def test_every_call_of_the_golden_trace(bundle: Bundle, runtime: str) -> None:
    calls = replay(bundle, Machine(bundle, runtime, 2))
    names = [call.signature for call in calls]
    assert set(names) == SIGNATURES == set(bundle.manifest.signatures)
    first = names.index("step")
    assert names[first : first + 10] == ["step"] * 10
    for call in calls:
        expected = {o.name for o in bundle.manifest.signatures[call.signature].outputs}
        assert call.errors.keys() == expected
        assert call.worst <= TOLERANCE, f"call {call.index} ({call.signature}): {call.errors}"
    print(runtime, {name: f"{error:.1e}" for name, error in worst_by_signature(calls).items()})


def test_steps_of_the_trace_really_move(bundle: Bundle) -> None:
    """The recorded steps are consecutive, and each changes every trained tensor by more than the tolerance."""
    tensors, metadata = bundle.tensors(GOLDEN_FILE)
    steps = [i for i, name in enumerate(json.loads(metadata["calls"])) if name == "step"]
    assert len(steps) >= 10
    assert steps == list(range(steps[0], steps[0] + len(steps)))
    trained = [s.name for s in bundle.manifest.state if s.kind == "parameter"]
    for name in trained:
        for before, after in pairwise(steps):
            one, other = (tensors[f"{i}.out.{name}"] for i in (before, after))
            assert relative_error(one, other) > 3 * TOLERANCE, name
    for before, after in pairwise(steps):
        assert not np.array_equal(tensors[f"{before}.in.latents"], tensors[f"{after}.in.latents"])


def changed(bundle: Bundle, target: Path, name: str, value: np.ndarray) -> Bundle:  # type: ignore[type-arg]
    """A copy with one tensor of the golden trace replaced, its digests right."""
    files: dict[str, Path | bytes] = {n: bundle.read(n) for n in bundle.manifest.files}
    tensors, metadata = bundle.tensors(GOLDEN_FILE)
    files[GOLDEN_FILE] = write_tensors({**tensors, name: value}, metadata)
    manifest = json.loads((bundle.path / "manifest.json").read_bytes())
    del manifest["files"]
    return write_bundle(target, manifest, files)


@pytest.mark.parametrize("output", ["logits", "head.weight", "closed.weight", "importance.head.bias"])
def test_a_wrong_value_is_caught(bundle: Bundle, tmp_path: Path, output: str) -> None:
    """One number off by a thousandth of the tensor's largest."""
    tensors, _ = bundle.tensors(GOLDEN_FILE)
    name = next(n for n in sorted(tensors) if n.split(".", 1)[1] == f"out.{output}")
    value = tensors[name].copy()
    value.reshape(-1)[value.size // 2] += 1e-3 * np.abs(value).max()
    wrong = changed(bundle, tmp_path / "wrong", name, value)
    calls = replay(wrong, Machine(wrong, "litert", 1))
    failed = [(c.index, name) for c in calls for name, error in c.errors.items() if error > TOLERANCE]
    assert failed == [(int(name.split(".")[0]), output)]


def test_a_wrong_shape_is_an_error_and_not_broadcast(bundle: Bundle, tmp_path: Path) -> None:
    wrong = changed(bundle, tmp_path / "wrong", "0.out.latents", np.zeros((1,), np.float32))
    with pytest.raises(BundleError, match="latents"):
        replay(wrong, Machine(wrong, "litert", 1))


def test_relative_error_of_bad_values() -> None:
    one = np.array([1.0, -4.0])
    assert relative_error(one, one) == 0
    assert relative_error(one + np.array([0, 0.4]), one) == pytest.approx(0.1)
    assert relative_error(np.array([np.nan, 0]), one) == float("inf")
    assert relative_error(np.array([0.5]), np.array([0.0])) == 0.5


def test_executorch_leaves_nothing_outside_the_delegate(bundle: Bundle) -> None:
    delegated = bundle.manifest.runtimes["executorch"].delegated
    assert {n: delegated[f"{n}.outside"] for n in SIGNATURES} == dict.fromkeys(SIGNATURES, 0)
    assert all(delegated[f"{n}.delegates"] >= 1 for n in SIGNATURES)


def test_executorch_reads_inputs_where_they_are(bundle: Bundle) -> None:
    """Else each call would copy the whole state first, into memory that stays."""
    from executorch.extension.pybindings import _C

    content = bundle.read("program.pte")
    program = _C._load_program_from_buffer(content)
    for name, signature in bundle.manifest.signatures.items():
        inputs = [program.method_meta(name).input_tensor_meta(index) for index in range(len(signature.inputs))]
        assert [meta.is_memory_planned() for meta in inputs] == [False] * len(signature.inputs)


def test_litert_program_has_builtin_operators_only(bundle: Bundle) -> None:
    from ai_edge_litert import schema_py_generated as schema

    content = bundle.read("program.tflite")
    model = schema.Model.GetRootAs(content, 0)
    codes = [model.OperatorCodes(i) for i in range(model.OperatorCodesLength())]
    assert codes
    assert [c.CustomCode() for c in codes if c.CustomCode()] == []
    custom = schema.BuiltinOperator.CUSTOM
    assert custom not in {max(c.BuiltinCode(), c.DeprecatedBuiltinCode()) for c in codes}
    signatures = {model.SignatureDefs(i).SignatureKey().decode() for i in range(model.SignatureDefsLength())}
    assert signatures == SIGNATURES
    assert b"Flex" not in content


def test_litert_program_holds_nothing_that_no_runtime_reads(bundle: Bundle) -> None:
    """Empty buffers and names of tensors are a tenth of a small program."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(bundle.read("program.tflite"), 0)
    assert all(model.Buffers(index).DataLength() for index in range(1, model.BuffersLength()))
    graphs = [model.Subgraphs(index) for index in range(model.SubgraphsLength())]
    assert not any(graph.Tensors(index).Name() for graph in graphs for index in range(graph.TensorsLength()))


def test_ml_package_has_one_function_a_signature(bundle: Bundle) -> None:
    coremltools = pytest.importorskip("coremltools")
    path = bundle.file_path("program.mlpackage")
    assert path is not None
    spec = coremltools.utils.load_spec(str(path))
    described = {f.name: f for f in spec.description.functions}
    assert set(described) == SIGNATURES == set(spec.mlProgram.functions)
    for name, signature in bundle.manifest.signatures.items():
        for ours, theirs in ((signature.inputs, described[name].input), (signature.outputs, described[name].output)):
            assert [tuple(t.type.multiArrayType.shape) for t in theirs] == [t.shape for t in ours], name


def test_programs_and_files_are_what_the_manifest_says(bundle: Bundle) -> None:
    assert set(bundle.manifest.runtimes) == {"litert", "executorch", "coreml"}
    parameters = {p.name: p for p in bundle.manifest.plan.parameters}
    assert {p.role for p in parameters.values()} == {"frozen", "centre", "head"}
    state = {s.name: s.shape for s in bundle.manifest.state}
    assert {s.name for s in bundle.manifest.state if s.kind == "parameter" and s.name.endswith(".centre")} == {
        p.name.removesuffix("weight") + "centre" for p in parameters.values() if p.role == "centre"
    }
    tensors, _ = read_tensors(bundle.read("state.safetensors"), "state")
    assert {n: t.shape for n, t in tensors.items()} == state
