"""Training and compressing from a recipe as people do, and what is refused before the long work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from pocketstep.architectures import Blueprint, build_network
from pocketstep.build import Workshop
from pocketstep.cli import app
from pocketstep.console import Console
from pocketstep.history import Progress
from pocketstep.recipe import load_recipe
from pocketstep.stages import compress, load_material, shortened, train_teacher
from pocketstep.weights import load_network, save_network
from pocketstep_device.errors import InputError

RECIPE = """
threads = 1
[data]
name = "npz"
cloud_classes = 3
held_back = 0.2
seed = 0
per_image = true
[teacher]
network = "wrn-16-0.25"
epochs = 1
batch = 16
learning_rate = 0.05
augment = true
cutout = 2
seed = 0
[compress]
shallow = true
threshold = 0.8
images_per_class = 4
round_to = 1
min_width = 2
[transfer]
epochs = 1
batch = 16
learning_rate = 0.05
weights = [0.1, 0.1, 1]
augment = false
seed = 0
[plan]
preset = "centre"
cut = "group2"
spare_classes = 1
pooled_cells = 2
batch = 4
[replay]
per_class = 2
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("stages")
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (96, 8, 8, 3), dtype=np.uint8), np.arange(96) % 4
    np.savez(root / "all.npz", images=images, labels=labels, classes=np.array(list("abcd")))
    (root / "mine.toml").write_text(RECIPE)
    return root


def run(*arguments: str | Path) -> tuple[int, str, BaseException | None]:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return done.exit_code, done.output, done.exception


def test_train_and_compress_from_a_shell(folder, tmp_path):
    recipe, data = folder / "mine.toml", folder / "all.npz"
    code, output, _ = run("train", recipe, "-o", tmp_path / "one", "--data", data)
    assert code == 0
    assert "teacher: " in output
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["teacher.recipe", "teacher.safetensors"]
    teacher = tmp_path / "one" / "teacher.safetensors"
    code, output, _ = run("compress", recipe, "-o", tmp_path / "two", "--data", data, "--teacher", teacher)
    assert code == 0
    assert "student: " in output
    student = load_network(tmp_path / "two" / "student.safetensors")
    assert sum(p.numel() for p in student.parameters()) < sum(p.numel() for p in load_network(teacher).parameters())


def test_refused_before_the_work(folder, tmp_path):
    recipe, data = folder / "mine.toml", folder / "all.npz"
    save_network(build_network(Blueprint("wrn-16-0.25", 4, 3, (8, 8))), tmp_path / "four.safetensors")
    save_network(build_network(Blueprint("wrn-16-0.25", 3, 1, (8, 8))), tmp_path / "grey.safetensors")
    for name, message in (("four", "knows 4 classes, the recipe's cloud 3"), ("grey", "cannot take images of")):
        with pytest.raises(InputError, match=message):
            raise run(
                "compress", recipe, "-o", tmp_path, "--data", data, "--teacher", tmp_path / f"{name}.safetensors"
            )[2]
    with pytest.raises(InputError, match="no folder for the images of 'npz'"):
        raise run("train", recipe, "-o", tmp_path / "x")[2]
    with pytest.raises(InputError, match=r"set data\.per_image = false"):
        Workshop(str(recipe), tmp_path / "w", data).bundle(tmp_path / "b.bundle", Console(quiet=True))
    for old, new, message in (
        ("threshold = 0.8", "threshold = 0.4", "compress.threshold is 0.4"),
        ('"wrn-16-0.25"', '"vgg17"', "no network 'vgg17'"),
        ('network = "wrn-16-0.25"', "", "either a network"),
        ("cutout = 2", "cutout = -2", "teacher.cutout is -2"),
        ("weights = [", "mix = true\nweights = [", "mix makes images without labels"),
        ("cutout = 2", 'precision = "float64"', "teacher.precision is 'float64'"),
        ("cutout = 2", 'precision = "float16"', "float16 needs a CUDA device"),
        ("cloud_classes = 3", "cloud_classes = 4", "leave at least one for the device"),
        ('"npz"', '"zip"', "data.name is 'zip'"),
    ):
        (tmp_path / "wrong.toml").write_text(RECIPE.replace(old, new))
        with pytest.raises(InputError, match=message):
            raise run("train", tmp_path / "wrong.toml", "-o", tmp_path / "x", "--data", data)[2]


@pytest.mark.parametrize("method", ["blocks", "features", "hinton", "fitnet", "none"])
@pytest.mark.parametrize("trainable", ["all", "last"])
def test_every_method_trains_what_it_says(folder, method, trainable):
    recipe = load_recipe(folder / "mine.toml")
    recipe = replace(recipe, transfer=replace(recipe.transfer, method=method, trainable=trainable))
    material = load_material(recipe, folder / "all.npz")
    teacher = train_teacher(recipe, material).network
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    student = compress(recipe, material, teacher)
    assert student.notes == ()
    assert student.thinned
    assert all((tensor == before[name]).all() for name, tensor in teacher.state_dict().items())
    frozen = [name for name, parameter in student.network.named_parameters() if not parameter.requires_grad]
    assert bool(frozen) == (trainable == "last")


def test_without_groups_only_thin_and_it_is_said(folder):
    recipe = load_recipe(folder / "mine.toml")
    teacher = build_network(Blueprint("wrn-10-0.25", 3, 3, (8, 8)))
    student, notes = shortened(recipe, teacher)
    assert student is teacher
    assert "thin, not shallow" in notes[0]


def test_the_console_shows_time_left(capsys):
    with Console() as console:
        console.training_step(Progress("teacher", 1, 3, 1.5, 0.25, 10, 300, 3725.0, 0.5))
        console.training(Progress("teacher", 3, 3, 0.5, 0.75, 300, 300, 0.0, 0.6))
    assert "teacher: loss 0.500, accuracy 75.0%, 60.0% on other images" in capsys.readouterr().err
