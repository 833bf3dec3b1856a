"""Opens with Python what the Kotlin tests left behind: ``python tests/android/check_exchange.py BUNDLE FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from raw import read_raw

from pocketstep_device import Learner
from pocketstep_device.tensors import read_tensors, write_tensors


def main() -> None:
    """Every state in FOLDER: same bytes when written again, same predictions as Kotlin's, taken back, learned again."""
    bundle, folder = Path(sys.argv[1]), Path(sys.argv[2])
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
        print(f"{path.parent.name}: Python opens Kotlin's state, probabilities within {error:.1e}, took it back, learned")


if __name__ == "__main__":
    main()
