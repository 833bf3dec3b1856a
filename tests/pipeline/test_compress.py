"""The study of ``pocketstep bench compress``, on made-up images and a network that trains in seconds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from pocketstep.bench.compress import Study
from pocketstep.bench.compress_tables import convergence, steps_to
from pocketstep.bench.increment import groups_mean, widened, with_replay
from pocketstep.cli import app
from pocketstep.console import Console
from pocketstep.data import Dataset
from pocketstep.recipe import load_recipe
from pocketstep.sources import load_data
from pocketstep.stages import accuracy_of, new_teacher
from pocketstep.weights import load_network
from pocketstep_device.errors import InputError

MODELS = Path(__file__).parents[2] / "models"
ACCURACY = "cifar100-"  # recipes of another command begin so; they have tests of their own
TARGETS = "targets"  # no recipe: where bundles are validated
CLASSES = tuple("abcd")


def made_up(count: int, seed: int) -> dict[str, np.ndarray]:
    """Squares at four places, noisy."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 4
    images = rng.integers(0, 120, (count, 8, 8, 3), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[4 * (label // 2) :, 4 * (label % 2) :][:4, :4] += 100
    return {"images": images, "labels": labels, "classes": np.array(CLASSES)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("study")
    np.savez(root / "train.npz", **made_up(240, 0))
    np.savez(root / "test.npz", **made_up(80, 1))
    text = (MODELS / "cifar10-small.toml").read_text()
    changes = {
        'name = "cifar10"': 'name = "npz"',
        "cloud_classes = 9": "cloud_classes = 3",
        "held_back = 0.02": "held_back = 0.1",
        '"wrn-16-1"': '"wrn-16-0.5"',
        "batch = 128": "batch = 32",
        "shift = 4": "shift = 1",
        "mirror = true": "mirror = false",
        '"cat", "truck"': '"a", "d"',
        "thresholds = [1.0, 0.9, 0.8, 0.7]": "thresholds = [1.0, 0.9]",
        "watch_every = 47": "watch_every = 3",
        "replay = [0, 20] ": "replay = [0, 5] ",
        'precision = "bfloat16"': 'precision = "float32"',
        "min_width = 4": "min_width = 2",
    }
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    (root / "study.toml").write_text(text)
    return root


@pytest.fixture(scope="module")
def found(folder: Path) -> dict:
    paths = ["-o", str(folder / "out"), "--data", str(folder)]
    result = CliRunner().invoke(app, ["bench", "compress", str(folder / "study.toml"), *paths, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_every_part_has_its_rows(found, folder):
    rows = found["rows"]
    assert [row["threshold"] for row in rows["curve"]] == [1.0, 0.9]
    assert [row["method"] for row in rows["methods"]] == [
        "blocks", "none", "scratch", "hinton", "fitnet", "blocks, 0.25 of the images", "scratch, 4 times the epochs",
    ]  # fmt: skip
    assert [(row["method"], row["replay"]) for row in rows["increment"]] == [("none", 0), ("blocks", 0), ("blocks", 5)]
    assert [(row["method"], row["mix"]) for row in rows["unseen"]] == [
        ("none", False), ("fitnet", False), ("blocks", False), ("blocks", True), ("blocks", True),
    ]  # fmt: skip
    for row in (row for part in rows.values() for row in part):
        assert row["accuracy"] == pytest.approx(np.mean(row["classes"]))
        assert row["parameters"] < found["teacher"]["parameters"]
    for row in rows["increment"]:
        assert row["groups"] == pytest.approx((np.mean(row["classes"][:3]) + row["classes"][3]) / 2)
    for row in rows["unseen"]:
        assert row["unseen"] == pytest.approx(np.mean(row["classes"][1:3]))
    assert rows["unseen"][0]["unseen"] < 0.5  # nothing but labels of other classes
    for row in rows["criteria"]:
        ours = next(r for r in rows["curve"] if r["threshold"] == row["threshold"])
        assert row["parameters"] == pytest.approx(ours["parameters"], rel=0.15)
    assert (folder / "out" / "compress.png").stat().st_size > 10_000
    assert load_network(folder / "out" / "rows" / "p0.9.safetensors")


def test_rows_are_kept(found, folder):
    before = {path: path.stat().st_mtime_ns for path in (folder / "out" / "rows").iterdir()}
    command = ["bench", "compress", str(folder / "study.toml"), "-o", str(folder / "out"), "--data", str(folder)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert before == {path: path.stat().st_mtime_ns for path in (folder / "out" / "rows").iterdir()}
    for title in ("students of wrn-16-0.5", "criteria at equal", "converged", "3+1 classes", "classes never seen"):
        assert title in result.stdout


def test_a_finished_row_leaves_the_trainings_of_others(folder, tmp_path):
    study = Study(str(folder / "study.toml"), tmp_path, str(folder), Console(quiet=True))
    other, own = tmp_path / "other.training", tmp_path / "own.training"
    other.touch()
    own.touch()
    study.row("own", lambda: (new_teacher(study.recipe, study.data), {}))
    assert other.exists()
    assert not own.exists()


def test_wrong_use(folder, tmp_path):
    command = ["bench", "compress", str(folder / "study.toml"), "-o", str(tmp_path), "--data", str(folder)]
    assert isinstance(CliRunner().invoke(app, [*command, "--only", "curves"]).exception, InputError)
    assert isinstance(CliRunner().invoke(app, [*command[:2], "digits", *command[3:]]).exception, InputError)
    text = (folder / "study.toml").read_text()
    for old, new, message in (
        ('"a", "d"', '"a", "z"', "no class 'z'"),
        ('"magnitude"', '"size"', "study.criteria is 'size'"),
        ("thresholds = [1.0, 0.9]", "thresholds = [1.0, 0.4]", "study.thresholds is 0.4"),
        ("methods_at = 0.9", "methods_at = 0.8", "must be among"),
        ('"wrn-16-0.5"', '"wrn-17-1"', r"6 n \+ 4"),
        ('"blocks"', '"block"', "transfer.method is 'block'"),
    ):
        if old not in text:
            old, new = "[transfer]\n", '[transfer]\nmethod = "block"\n'
        (tmp_path / "wrong.toml").write_text(text.replace(old, new))
        failed = CliRunner().invoke(app, [*command[:2], str(tmp_path / "wrong.toml"), *command[3:]]).exception
        with pytest.raises(InputError, match=message):
            raise failed


@pytest.mark.parametrize(
    "path",
    sorted(p for p in MODELS.glob("*.toml") if p.stem != TARGETS and not p.stem.startswith(ACCURACY)),
    ids=lambda path: path.stem,
)
def test_all_recipes_can_be_read(path):
    assert load_recipe(path).name == path.stem


@pytest.mark.parametrize(
    ("recipe_name", "student", "data"),
    [
        ("digits-study", "digits-p0.7", ""),
        ("cifar10-small", "cifar10-p0.9", "cifar"),
        pytest.param("cifar10-wrn28x10-short", "cifar10-wrn28x10-p0.7", "cifar", marks=pytest.mark.slow),
    ],
)
def test_a_student_that_comes_along_is_as_good_as_its_card_says(recipe_name, student, data, request):
    recipe = load_recipe(MODELS / f"{recipe_name}.toml")
    folder = request.getfixturevalue(data) if data else ""
    everything, test = load_data(recipe.data.name, folder, size=recipe.data.size, seed=recipe.data.seed)
    taught, _ = everything.split(recipe.data.held_back, recipe.data.seed)
    classes = accuracy_of(load_network(MODELS / f"{student}.safetensors"), test, taught, recipe)
    assert f"mean over classes: {classes.mean():.1%}" in (MODELS / f"{student}.md").read_text().replace(" %", "%")


def test_steps_to_converge():
    slow = {"method": "none", "curve": [(10, 0.3), (20, 0.6), (30, 0.8)]}
    fast = {"method": "blocks", "curve": [(5, 0.7), (10, 0.79)]}
    never = {"method": "fitnet", "curve": [(10, 0.2)]}
    assert convergence([fast, slow, never]) == [10, 30, None]
    assert steps_to([], 0.5) is None


def test_a_wider_head_keeps_the_old_logits(found, folder):
    network = load_network(folder / "out" / "rows" / "old-student.safetensors")
    wider = widened(network, 4)
    assert wider.head.weight.shape[0] == 4
    assert (wider.head.weight[:3] == network.head.weight).all()
    assert (wider.head.weight[3] == 0).all()
    assert network.head.out_features == 3


def test_replay_picks_images_of_the_old_classes():
    data = Dataset(**{**made_up(40, 0), "classes": CLASSES})
    assert np.bincount(with_replay(data, ["a", "b", "d"], 0, 0).labels).tolist() == [0, 0, 10]
    replayed = with_replay(data, ["a", "b", "d"], 3, 0)
    assert np.bincount(replayed.labels).tolist() == [10, 10, 10]
    assert [len(np.unique(replayed.images[replayed.labels == c], axis=0)) for c in range(3)] == [3, 3, 10]
    assert groups_mean(np.array([0.5, 0.7, 1.0])) == pytest.approx(0.8)
