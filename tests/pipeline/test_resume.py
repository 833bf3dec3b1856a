from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from pocketstep.data import Dataset
from pocketstep.history import Watch
from pocketstep.networks import ResidualNet
from pocketstep.training import fit
from pocketstep_device.errors import InputError

SETTINGS = {
    "epochs": 3, "batch": 16, "learning_rate": 0.05, "seed": 4, "mean": (0.5,) * 3, "std": (0.25,) * 3,
    "augment": True, "shift": 2, "mirror": True, "cutout": 3, "mix": True, "checkpoint_seconds": 0.0,
}  # fmt: skip


@pytest.fixture
def dataset() -> Dataset:
    rng = np.random.default_rng(0)
    return Dataset(rng.integers(0, 256, (80, 8, 8, 3), dtype=np.uint8), np.arange(80) % 2, ("a", "b"))


class Killed(Exception):
    pass


def run(dataset: Dataset, path: Path | None, die_at: int | None = None, **settings):
    """Trains; dies in the forward pass of one step, as a kill would."""
    model, calls = ResidualNet(2, 3, widths=(4, 8), blocks=1, seed=1), [0]

    def die(module: torch.nn.Module, inputs: object) -> None:
        if module.training:
            calls[0] += 1
            if calls[0] == die_at:
                raise Killed

    model.register_forward_pre_hook(die)
    watch = Watch(dataset, every=4, keep_best=True)
    history = fit(model, dataset, checkpoint=path, watch=watch, **{**SETTINGS, **settings})
    return model, history, calls[0]


@pytest.mark.parametrize("die_at", [1, 3, 5, 6, 11, 15])  # 5 steps an epoch: within, at the end, at the beginning
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_killed_run_ends_with_the_same_result(dataset, tmp_path, die_at, precision):
    expected, history, calls = run(dataset, None, precision=precision)
    assert calls == 15
    path = tmp_path / "teacher.training"
    with pytest.raises(Killed):
        run(dataset, path, die_at, precision=precision)
    model, again, calls = run(dataset, path, precision=precision)
    assert calls == 15 - (die_at - 1)  # only what was left
    for name, tensor in expected.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    assert again.curve == history.curve
    for one, other in zip(again.epochs, history.epochs, strict=True):
        drop = {"seconds_left"}
        assert {k: v for k, v in asdict(one).items() if k not in drop} == {
            k: v for k, v in asdict(other).items() if k not in drop
        }


def test_a_finished_run_is_not_run_again(dataset, tmp_path):
    path = tmp_path / "teacher.training"
    first, _, _ = run(dataset, path)
    again, _, calls = run(dataset, path)
    assert calls == 0
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


def test_another_run_begins_anew_and_a_damaged_file_is_refused(dataset, tmp_path):
    path = tmp_path / "teacher.training"
    run(dataset, path)
    assert run(dataset, path, learning_rate=0.01)[2] == 15
    assert run(dataset, path, learning_rate=0.01, key="another loss")[2] == 15
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="delete it to start this training anew"):
        run(dataset, path, learning_rate=0.01, key="another loss")


def test_the_best_weights_on_watched_images_are_kept(dataset):
    _, history, _ = run(dataset, None, epochs=6)
    assert [step for step, _ in history.curve] == [4, 8, 12, 16, 20, 24, 28, 30]
    assert all(0 <= accuracy <= 1 for _, accuracy in history.curve)


def test_two_processes_train_like_one(tmp_path):
    """Without batch norms the averaged gradients are those of the whole batch."""
    pytest.importorskip("accelerate")
    script = Path(__file__).with_name("two_processes.py")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes=2", "--num_machines=1",
              "--mixed_precision=no", "--dynamo_backend=no", str(script), str(tmp_path / "two.npy")]  # fmt: skip
    subprocess.run([sys.executable, str(script), str(tmp_path / "one.npy")], check=True, capture_output=True)
    subprocess.run(launch, check=True, capture_output=True)
    np.testing.assert_allclose(np.load(tmp_path / "two.npy"), np.load(tmp_path / "one.npy"), rtol=1e-4, atol=1e-6)
