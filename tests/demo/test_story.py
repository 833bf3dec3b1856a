"""The demo's device, as a process of its own, on a real bundle; its cloud half is what built that bundle."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pocketstep.demo.run import DEVICE_PYTHON, OBSERVED, STORY, device, prepare_folder, write_images
from pocketstep.recipe import load_recipe
from pocketstep.stages import load_material
from pocketstep_device.errors import CheckFailedError, InputError


@pytest.fixture
def out(bundle_path: Path, tmp_path: Path) -> Path:
    """A demo's folder, ready for the device."""
    folder = tmp_path / "out"
    prepare_folder(folder)
    shutil.copytree(bundle_path, folder / "digits.bundle")
    write_images(folder / "device" / "images.npz", load_material(load_recipe("digits")))
    return folder


@pytest.mark.parametrize("runtime", ["litert", "executorch"])
def test_the_device_learns_forgets_only_when_asked_and_survives_a_restart(out: Path, runtime: str) -> None:
    results = device(runtime, out)
    rows = {row["method"]: row for row in results["act1"]["rows"]}
    before = results["act1"]["before"]
    assert before["new"] == 0
    assert rows["auto"]["accepted"]
    assert rows["auto"]["new"] >= 0.85
    assert rows["auto"]["forgetting"] <= 0.03
    assert rows["fine-tune"]["forgetting"] >= 0.2
    assert rows["fine-tune"]["new"] >= 0.85
    assert results["act1"]["restart"]["same"]
    shifted = {row["method"]: row["shifted"] for row in results["act2"]["rows"]}
    assert shifted["centre-taps"] >= results["act2"]["before"]["shifted"] + 0.1
    assert results["golden"]["worst"] <= results["golden"]["tolerance"]
    print(runtime, "golden", results["golden"]["worst"], "new", rows["auto"]["new"], "shifted", shifted)
    if runtime == "litert":
        assert not results["environment"]["torch_imported"]
        if DEVICE_PYTHON in os.environ:
            assert "torch" not in results["environment"]["packages"]


def test_the_device_sees_what_the_demo_says(out: Path) -> None:
    import numpy as np

    data = np.load(out / "device" / "images.npz")
    assert len(data["new_images"]) == OBSERVED
    assert str(data["new_class"]) == "9"
    assert not np.array_equal(data["test"], data["test_shifted"])


def test_a_device_that_fails_is_named(out: Path) -> None:
    (out / "digits.bundle" / "program.tflite").unlink()
    with pytest.raises(CheckFailedError, match=r"the device process on litert failed: .*program\.tflite"):
        device("litert", out)


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("do not lose me")
    with pytest.raises(InputError, match=r"holds thesis\.tex, which is no demo's"):
        prepare_folder(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "do not lose me"
    with pytest.raises(InputError, match="is a file"):
        prepare_folder(tmp_path / "thesis.tex")


def test_the_story_needs_no_pipeline() -> None:
    code = (
        "import importlib.util, json, sys; spec = importlib.util.spec_from_file_location('story', sys.argv[1]); "
        "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module); "
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(STORY)], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert "pocketstep_device" in loaded
    assert not loaded & {"pocketstep", "torch", "sklearn", "rich"}
