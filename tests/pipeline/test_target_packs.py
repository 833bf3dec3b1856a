"""``pocketstep targets``: from a teacher and unlabelled pictures to a device that has learned from them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from pocketstep.cli import app
from pocketstep.data import Dataset, normalisation
from pocketstep.networks import ResidualNet
from pocketstep.target_packs import make_pack, read_unlabelled
from pocketstep.training import evaluate, fit
from pocketstep.weights import load_network, save_network
from pocketstep_device import Learner
from pocketstep_device.bundle import Bundle
from pocketstep_device.errors import InputError, PocketstepError
from pocketstep_device.target_pack import TargetPack


@pytest.fixture(scope="module")
def folder(digits: tuple[Dataset, Dataset], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher of all ten digits, its classes, and pictures without labels: sixty nines, ten of each other digit."""
    root, train = tmp_path_factory.mktemp("targets"), digits[0]
    teacher = ResidualNet(10, 1, (8, 16), 1, seed=0)
    mean, std = normalisation(train)
    fit(teacher, train, epochs=6, batch=32, learning_rate=0.1, seed=0, mean=mean, std=std, augment=False)
    save_network(teacher, root / "teacher.safetensors")
    (root / "classes.txt").write_text("\n".join(train.classes))
    few = [np.flatnonzero(train.labels == c)[: 60 if c == 9 else 10] for c in range(10)]
    np.save(root / "pictures.npy", train.images[np.random.default_rng(0).permutation(np.concatenate(few))])
    return root


def command(bundle: Path, folder: Path, out: Path, **changes: str) -> list[str]:
    options = {
        "teacher": str(folder), "classes": str(folder / "classes.txt"), "images": str(folder / "pictures.npy"),
        "out": str(out), **changes,
    }  # fmt: skip
    given = [part for name, value in options.items() if value for part in (f"--{name}", value)]
    return ["targets", str(bundle), *given]


def test_a_device_learns_the_tenth_digit_from_pictures_without_labels(
    bundle_path: Path, digits: tuple[Dataset, Dataset], folder: Path, tmp_path: Path
) -> None:
    out, test = tmp_path / "nines.pack", digits[1]
    result = CliRunner().invoke(app, [*command(bundle_path, folder, out), "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["images"] == 150
    assert found["new_classes"] == ["9"]
    with Learner.open(bundle_path, tmp_path / "state") as learner:
        before = np.array(learner.classify(test.images[test.labels < 9]).labels)
        report = learner.update(targets=out)
        assert report.accepted, report.reason
        labels = np.array(learner.classify(test.images).labels)
    wanted = np.array([test.classes[label] for label in test.labels])
    old = test.labels < 9
    assert (labels[~old] == "9").mean() > 0.8
    assert (labels[old] == wanted[old]).mean() > (before == wanted[old]).mean() - 0.05


def test_a_pack_says_what_the_teacher_and_the_bundle_say(bundle_path: Path, folder: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(bundle_path)
    pictures = read_unlabelled(folder / "pictures.npy", bundle.manifest.task.input.shape)[:30]
    teacher, names = load_network(folder / "teacher.safetensors"), tuple("0123456789")
    pack = make_pack(bundle, teacher, names, pictures)
    task = bundle.manifest.task.input
    logits = evaluate(teacher, Dataset(pictures, np.arange(30) % 10, names), task.mean, task.std)
    np.testing.assert_allclose(pack.logits, logits, rtol=1e-4, atol=1e-4)
    with Learner.open(bundle_path, tmp_path / "state") as learner:
        np.testing.assert_array_equal(pack.latents, learner.encode(pictures))
    pack.write(tmp_path / "a.pack", bundle)
    again = TargetPack.read(tmp_path / "a.pack", bundle)
    np.testing.assert_array_equal(again.logits, pack.logits)
    assert again.classes == names
    assert again.features is None  # this bundle's step takes none


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ""}, "10.* outputs, and 9 classes"),
        ({"teacher": ""}, "give the teacher"),
        ({"model": "torchvision.models:resnet18"}, "give the teacher"),
        ({"teacher": "nowhere"}, "cannot load a network"),
        ({"images": "nowhere.npy"}, "no file nowhere"),
    ],
)
def test_wrong_use_is_told_before_anything_is_written(
    bundle_path: Path, folder: Path, tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    failed = CliRunner().invoke(app, command(bundle_path, folder, tmp_path / "a.pack", **changes)).exception
    assert isinstance(failed, PocketstepError)
    with pytest.raises(PocketstepError, match=message):
        raise failed
    assert not (tmp_path / "a.pack").exists()


def test_images_of_another_shape(bundle_path: Path, folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "large.npy", np.zeros((2, 20, 20, 1), np.uint8))
    np.save(tmp_path / "float.npy", np.zeros((2, 16, 16, 1), np.float32))
    for name, message in (("large", "this bundle takes"), ("float", "uint8")):
        arguments = command(bundle_path, folder, tmp_path / "a.pack", images=str(tmp_path / f"{name}.npy"))
        failed = CliRunner().invoke(app, arguments).exception
        assert isinstance(failed, InputError)
        assert message in str(failed)
