from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from pocketstep_device.bundle import Bundle
from pocketstep_device.bundle_writer import write_bundle
from pocketstep_device.golden import GOLDEN_FILE
from pocketstep_device.tensors import write_tensors

COMMANDS = ("classify", "observe", "learn", "rollback", "status", "replay")


def run(*arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pocketstep_device", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    if code:
        assert "Traceback" not in done.stderr
    return done


def strict(text: str) -> Any:
    """JSON as every parser reads it: NaN and Infinity are none."""

    def fail(constant: str) -> NoReturn:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=fail)


def run_json(*arguments: str | Path, code: int = 0) -> Any:
    return strict(run(*arguments, "--json", code=code).stdout)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture(scope="module")
def files(digits: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``new.npz``: labelled nines; ``test.npy``: zeros and nines; ``nan.npy``; ``junk.npz``; ``other.npz``."""
    train, test = digits
    folder = tmp_path_factory.mktemp("images")
    nines = train.images[train.labels == 9][:40]
    np.savez(folder / "new.npz", images=nines, labels=np.array(["9"] * 40))
    np.save(folder / "test.npy", np.concatenate([test.images[test.labels == c][:10] for c in (0, 9)]))
    np.save(folder / "nan.npy", np.full((2, 16, 16, 1), np.nan, np.float32))
    np.savez(folder / "nan.npz", images=np.full((2, 16, 16, 1), np.nan), labels=np.array(["x", "x"]))
    np.savez(folder / "other.npz", pictures=nines)
    np.savez(folder / "numbers.npz", images=nines, labels=np.arange(40))
    np.savez(folder / "pickle.npz", images=np.array([object()]), labels=np.array(["a"]))
    (folder / "junk.npz").write_bytes(b"PK\x03\x04 this is no zip")
    (folder / "empty.npy").write_bytes(b"")
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()} if folder.exists() else {}


def test_a_session_in_the_shell(bundle_path: Path, files: Path, state: Path) -> None:
    here = (bundle_path, "--state", state)
    assert run_json("status", *here)["free_slots"] == 3
    assert run_json("observe", bundle_path, files / "new.npz", "--state", state, "--new-class") == {
        "observed": {"9": 40}
    }
    status = run_json("status", *here)
    assert (status["pending_samples"], status["not_yet_learned"]) == (40, ["9"])
    report = run_json("learn", *here, "--method", "closed-form", "--seconds", "60", "--memory-mb", "4000")
    assert report["accepted"]
    assert report["exit_code"] == 0
    assert report["phases"][0]["loss"] is None  # a closed form has none
    found = run_json("classify", bundle_path, files / "test.npy", "--state", state)
    assert found["classes"] == [str(c) for c in range(10)]
    assert np.array(found["probabilities"]).shape == (20, 10)
    assert found["labels"].count("0") >= 8
    assert found["labels"].count("9") >= 7
    lines = run("classify", bundle_path, files / "test.npy", "--state", state).stdout.splitlines()
    assert [line.split("\t")[:2] for line in lines] == [[str(i), label] for i, label in enumerate(found["labels"])]
    assert run_json("rollback", *here)["pending_samples"] == 40
    after = run_json("classify", bundle_path, files / "test.npy", "--state", state)
    assert after["classes"] == [str(c) for c in range(9)]
    assert "no update to roll back" in run("rollback", *here, code=2).stderr


def test_replay(bundle_path: Path, tmp_path: Path) -> None:
    result = run_json("replay", bundle_path)
    assert result["worst"] <= 1e-4
    assert max(c["worst"] for c in result["calls"]) == result["worst"]
    lines = run("replay", bundle_path).stdout.splitlines()
    assert len(lines) == len(result["calls"]) + 1
    assert "largest relative error" in lines[-1]
    failed = run_json("replay", bundle_path, "--tolerance", "1e-12", code=1)
    assert failed["exit_code"] == 1


def test_replay_of_a_program_that_computes_something_else(bundle_path: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(bundle_path)
    tensors, metadata = bundle.tensors(GOLDEN_FILE)
    tensors = {**tensors, "0.out.latents": tensors["0.out.latents"] * 1.01}
    contents = {n: bundle.read(n) for n in bundle.manifest.files}
    manifest = json.loads((bundle_path / "manifest.json").read_bytes())
    del manifest["files"]
    wrong = write_bundle(tmp_path / "wrong", manifest, {**contents, GOLDEN_FILE: write_tensors(tensors, metadata)})
    assert run_json("replay", wrong.path, code=1)["worst"] == pytest.approx(0.01, rel=0.05)


def test_a_failed_check_is_exit_code_1(bundle_path: Path, files: Path, state: Path) -> None:
    run("observe", bundle_path, files / "new.npz", "--state", state, "--new-class")
    before = content(state)
    done = run("learn", bundle_path, "--state", state, "--memory-mb", "0.001", code=1)
    assert "more than its budget" in done.stderr
    assert content(state) == before


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["classify", "BUNDLE", "FILES/gone.npy"], "there is no file"),
        (["classify", "BUNDLE", "FILES/junk.npz"], "cannot be read"),
        (["classify", "BUNDLE", "FILES/empty.npy"], "cannot be read"),
        (["classify", "BUNDLE", "FILES/pickle.npz"], "cannot be read"),
        (["classify", "BUNDLE", "FILES/other.npz"], "no array 'images', only pictures"),
        (["classify", "BUNDLE", "FILES/nan.npy"], "NaN"),
        (["classify", "BUNDLE", "FILES"], "holds no pictures"),
        (["observe", "BUNDLE", "FILES/numbers.npz"], "one class name"),
        (["observe", "BUNDLE", "FILES/test.npy"], "give one with --label"),
        (["observe", "BUNDLE", "FILES/test.npy", "--label", "cat"], "no class cat here; add --new-class"),
        (["observe", "BUNDLE", "FILES/nan.npz", "--new-class"], "NaN"),
        (["learn", "BUNDLE"], "nothing was observed"),
        (["learn", "BUNDLE", "--method", "magic"], "unknown method 'magic'"),
        (["learn", "BUNDLE", "--seconds", "-1"], "budget's seconds"),
        (["learn", "BUNDLE", "--seconds", "nan"], "budget's seconds"),
        (["status", "BUNDLE", "--runtime", "onnx"], "unknown runtime"),
        (["status", "BUNDLE", "--threads", "0"], "0 threads"),
    ],
    ids=lambda value: " ".join(value[:1] + value[2:]) if isinstance(value, list) else "",
)
def test_wrong_use_is_exit_code_2(
    bundle_path: Path, files: Path, state: Path, arguments: list[str], reason: str
) -> None:
    places = {"BUNDLE": str(bundle_path), "FILES": str(files)}
    given = [a.replace("FILES", places["FILES"]) if a.startswith("FILES") else places.get(a, a) for a in arguments]
    done = run(*given, "--state", state, code=2)
    assert reason in done.stderr
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1 or "INFO:" in done.stderr
    assert not list(state.glob("snapshot-*"))  # no half of it was done


def test_more_new_classes_than_slots_take_none(bundle_path: Path, tmp_path: Path, state: Path) -> None:
    images = np.zeros((4, 16, 16, 1), np.uint8)
    np.savez(tmp_path / "four.npz", images=images, labels=np.array(["a", "b", "c", "d"]))
    assert "slot" in run("observe", bundle_path, tmp_path / "four.npz", "--state", state, "--new-class", code=2).stderr
    assert run_json("status", bundle_path, "--state", state)["free_slots"] == 3


def test_wrong_command_is_exit_code_2() -> None:
    for arguments in ([], ["fly"], ["status"], ["status", "b", "--nonsense"], ["learn", "b", "--seconds", "many"]):
        assert "usage: pocketstep-device" in run(*arguments, code=2).stderr


@pytest.mark.parametrize("command", ["status", "replay", "learn"])
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("gone", "Check the path"),
        ("cut", "was cut or changed. Fetch the bundle again"),
        ("byte", "has changed bytes: its digest differs. Fetch the bundle again"),
        ("newer", "update pocketstep-device or rebuild the bundle"),
        ("no program", "Fetch the bundle again"),
    ],
)
def test_bad_bundles(bundle_path: Path, tmp_path: Path, state: Path, command: str, damage: str, reason: str) -> None:
    bundle = tmp_path / "bad.bundle"
    if damage != "gone":
        shutil.copytree(bundle_path, bundle)
        spoil(bundle, damage)
    state.mkdir()
    (state / "mine.txt").write_text("untouched")
    arguments = [] if command == "replay" else ["--state", state]
    assert reason in run(command, bundle, *arguments, code=2).stderr
    assert content(state) == {"mine.txt": b"untouched"}


def spoil(bundle: Path, damage: str) -> None:
    import hashlib

    program = bundle / "program.tflite"
    data = program.read_bytes()
    if damage == "cut":
        program.write_bytes(data[:-1000])
    elif damage == "byte":
        program.write_bytes(data[:5000] + bytes([data[5000] ^ 1]) + data[5001:])
    elif damage == "no program":
        program.unlink()
    else:
        manifest = json.loads((bundle / "manifest.json").read_bytes()) | {"version": 2}
        text = json.dumps(manifest).encode()
        (bundle / "manifest.json").write_bytes(text)
        (bundle / "manifest.sha256").write_text(hashlib.sha256(text).hexdigest() + "\n")


@pytest.mark.parametrize(("runtime", "module"), [("executorch", "executorch"), ("litert", "ai_edge_litert")])
def test_missing_runtime_is_exit_code_3(bundle_path: Path, state: Path, runtime: str, module: str) -> None:
    """In an interpreter where it cannot be imported, and neither can torch or the older tflite-runtime."""
    blocked = f"for name in ({module!r}, 'torch', 'tflite_runtime'): sys.modules[name] = None"
    code = f"import sys\n{blocked}\nfrom pocketstep_device.cli import main\nraise SystemExit(main())"
    command = [sys.executable, "-c", code, "status", str(bundle_path), "--state", str(state), "--runtime", runtime]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert f"pip install 'pocketstep-device[{runtime}]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not state.exists()


def test_verbose_shows_the_trace(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pocketstep_device", "status", str(tmp_path / "gone"), "--verbose"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" in done.stderr


def test_help_is_quick_and_names_the_exit_codes() -> None:
    seconds = []
    for command in ((), *((name,) for name in COMMANDS)):
        start = time.perf_counter()
        text = run(*command, "--help").stdout
        seconds.append(time.perf_counter() - start)
        assert "Exit codes" in text
    assert all(name in run("--help").stdout for name in COMMANDS)
    assert min(seconds) < 0.6  # the least of seven: 0.3 s on a quiet machine, twice that on a shared one
