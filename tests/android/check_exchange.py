"""Opens with Python what the Kotlin tests left behind: ``check_exchange.py BUNDLE FOLDER EXCHANGE``."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from raw import read_raw

from pocketstep_device import Learner
from pocketstep_device.fingerprint import same_answers, same_latents
from pocketstep_device.tensors import read_tensors, write_tensors


def main() -> None:
    """Every state in FOLDER: same bytes when written again, same predictions as Kotlin's, taken back, learned again."""
    bundle, folder, exchange = (Path(argument) for argument in sys.argv[1:])
    for path in sorted(folder.glob("first-*/*.safetensors")):
        check_same(path, exchange / path.parent.name.removeprefix("first-") / "first" / path.name)
    for case in sorted(folder.glob("adopt/*/*")):
        runtime, name = case.parts[-2:]
        check_adopted(case, exchange / runtime / "adopt" / name / "after", f"{runtime} adopted, {name}")
    told = sorted(folder.glob("*/probabilities.raw"))
    assert told, f"the Kotlin tests left no state in {folder}"
    for path in told:
        state, runtime = path.parent / "state", path.parent.name.split("-")[0]
        for file in state.glob("*-*.safetensors"):
            tensors, metadata = read_tensors(file.read_bytes(), file.name)
            assert write_tensors(tensors, metadata) == file.read_bytes(), f"{file} has other bytes in Python"
        with Learner.open(bundle, state, runtime) as learner:
            probabilities = learner.classify(read_raw(path.parent / "images.raw")).probabilities
            error = float(np.abs(probabilities - read_raw(path)).max())
            assert error < 1e-3, f"{path.parent.name}: probabilities differ by {error}"
            learner.rollback()
            assert learner.update(method="closed-form").accepted
        print(
            f"{path.parent.name}: Python opens Kotlin's state, probabilities within {error:.1e}, took it back, learned"
        )


def check_adopted(kotlin: Path, python: Path, what: str) -> None:
    """What both made of one state: the same files, those of samples and taken-over states to the byte."""
    found, wanted = ({p.name: p for p in folder.iterdir() if p.name != ".lock"} for folder in (kotlin, python))
    assert found.keys() == wanted.keys(), f"{what}: {sorted(found)} and {sorted(wanted)}"
    different = [name for name in found if found[name].read_bytes() != wanted[name].read_bytes()]
    for name in different:
        (tensors, facts), (expected, known) = (read_tensors(p.read_bytes(), name) for p in (found[name], wanted[name]))
        assert {**facts, "sha256": ""} == {**known, "sha256": ""}, f"{what}: {name} has other facts"
        for tensor, value in expected.items():
            np.testing.assert_allclose(tensors[tensor], value, 1e-3, 1e-3 * float(np.abs(value).max(initial=1)), tensor)
    print(f"{what}: {'agrees in ' + ', '.join(different) if different else 'the same bytes as'} Python's")


def check_same(kotlin: Path, python: Path) -> None:
    """What both wrote for the same change: every fact, and every tensor but for the runtime's rounding."""
    (found, facts), (expected, wanted) = (read_tensors(p.read_bytes(), p.name) for p in (kotlin, python))
    assert {**facts, "sha256": ""} == {**wanted, "sha256": ""}, f"{kotlin} has other facts than {python}"
    assert list(found) == list(expected)
    for name, tensor in found.items():
        assert tensor.dtype == expected[name].dtype
        assert tensor.shape == expected[name].shape
        if not name.startswith("fingerprint."):
            np.testing.assert_array_equal(tensor, expected[name], name)
    assert same_latents(found, expected)
    assert same_answers(found, expected)
    same = kotlin.read_bytes() == python.read_bytes()
    print(f"{kotlin.parent.name}: {'the same bytes as' if same else 'agrees with'} Python's")


if __name__ == "__main__":
    main()
