"""A ``.tflite`` program's signatures one at a time: as fast, and no memory for the others."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from pocketstep_device.bundle import Bundle
from pocketstep_device.runtimes.litert import LiteRtProgram, _listing_once
from pocketstep_device.runtimes.loaded import Loaded
from pocketstep_device.runtimes.tflite_file import TfliteFile
from pocketstep_device.runtimes.tflite_parts import Parts

PROGRAM = "program.tflite"


@pytest.fixture(scope="module")
def content(bundle_path: Path) -> bytes:
    return Bundle.open(bundle_path).read(PROGRAM)


def operators(content: bytes) -> dict[str, int]:
    """How many each signature has, as LiteRT's own schema says."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(content, 0)
    definitions = [model.SignatureDefs(i) for i in range(model.SignatureDefsLength())]
    return {d.SignatureKey().decode(): model.Subgraphs(d.SubgraphIndex()).OperatorsLength() for d in definitions}


def test_one_signature_is_kept_and_comes_back(content: bytes) -> None:
    whole, parts = operators(content), Parts(content)
    changing = bytearray(content)
    for name in (*whole, *whole):
        parts.keep_only(name, changing)
        assert operators(bytes(changing)) == {n: count if n == name else 1 for n, count in whole.items()}


def test_xnnpack_still_takes_it(content: bytes) -> None:
    """LiteRT shows the delegate of a model's first subgraph."""
    from ai_edge_litert.interpreter import Interpreter

    first = next(iter(operators(content)))
    changing = bytearray(content)
    Parts(content).keep_only(first, changing)
    interpreter = Interpreter(model_content=bytes(changing), num_threads=1)
    interpreter.allocate_tensors()
    assert "DELEGATE" in {node["op_name"] for node in interpreter._get_ops_details()}


def test_programs_that_are_none(content: bytes) -> None:
    with pytest.raises(ValueError, match="no signature 'train'"):
        Parts(content).keep_only("train", bytearray(content))
    for broken in (b"", content[:40], b"\xff" * 64, struct.pack("<I", 2**31) + content[4:]):
        with pytest.raises(ValueError, match="damaged"):
            Parts(broken)


def test_without_a_temporary_file(bundle_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk, or another system: the same from memory."""
    bundle = Bundle.open(bundle_path)
    monkeypatch.setattr("tempfile.TemporaryFile", _no_room)
    file = TfliteFile(bundle, PROGRAM)
    file.check()
    assert operators(file.only("encode")["model_content"]) == {
        name: count if name == "encode" else 1 for name, count in operators(bundle.read(PROGRAM)).items()
    }
    file.forget_pages()


def _no_room(**_: object) -> None:
    raise OSError(28, "No space left on device")


def test_the_file_is_gone_with_the_program(bundle_path: Path) -> None:
    program = LiteRtProgram(Bundle.open(bundle_path), PROGRAM, 1)
    assert program._file._file is not None
    assert not Path(str(program._file._file.name)).exists()


def test_what_is_loaded() -> None:
    made: list[str] = []
    alive: set[str] = set()

    class Thing:
        def __init__(self, name: str) -> None:
            self.name, self.beside = name, set(alive)
            made.append(name)
            alive.add(name)

        def __del__(self) -> None:
            alive.discard(self.name)

    loaded = Loaded(Thing)
    for name in ("encode", "classify", "step", "classify", "step", "score", "step"):
        assert loaded.get(name).name == name
    assert made == ["encode", "classify", "step", "score", "step"]
    assert alive == {"classify", "step"}
    assert loaded.get("step").beside == {"classify"}  # the other one went before it came


def test_the_older_interpreter_lists_its_signatures_once_a_program() -> None:
    class Older:
        listed = 0

        def __init__(self) -> None:
            self.names = self.get_signature_list()

        def get_signature_list(self) -> dict[str, dict[str, list[str]]]:
            raise AssertionError("it lists them anew")

        def _get_full_signature_list(self) -> dict[str, dict[str, dict[str, int]]]:
            Older.listed += 1
            return {"solve": {"inputs": {"args_0": 3, "args_1": 4}, "outputs": {"output_0": 7}}}

    kind = _listing_once(Older)
    assert kind().names == kind().names == {"solve": {"inputs": ["args_0", "args_1"], "outputs": ["output_0"]}}
    assert kind()._get_full_signature_list()["solve"]["outputs"] == {"output_0": 7}
    assert Older.listed == 1
    _listing_once(Older)()
    assert Older.listed == 2
