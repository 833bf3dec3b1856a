from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy
from coloured import images

from pocketstep.bench.accuracy import recipe as recipes
from pocketstep.bench.accuracy.fine_tuning import fine_tuned
from pocketstep.bench.accuracy.incremental import METHODS, Encoded, Stage, trained
from pocketstep.bench.accuracy.material import VARIANTS, Material, Settings
from pocketstep.bench.accuracy.results import draw_costs, draw_stream, shift_table, stream_table
from pocketstep.bench.accuracy.rivals import RIVALS
from pocketstep.bench.accuracy.run import check
from pocketstep.bench.accuracy.shift import CLOSED, TRAINED
from pocketstep.bench.accuracy.stream import Course, Protocol, experiences, per_class, reordered
from pocketstep.request import Request
from pocketstep.schedules import schedules
from pocketstep_device import Learner
from pocketstep_device.errors import InputError


def test_protocols() -> None:
    assert Protocol(50, 5).seen(100) == [50, 60, 70, 80, 90, 100]
    assert Protocol(10, 9).seen(100) == list(range(10, 101, 10))
    assert list(experiences([2, 4, 6])) == [range(2, 4), range(4, 6)]
    for first, steps in ((50, 7), (100, 1), (1, 3), (50, 0)):
        with pytest.raises(InputError, match="choose numbers that divide"):
            Protocol(first, steps).seen(100)


def test_class_order() -> None:
    """A permutation, the same for training and test images, another one for another seed."""
    train, test = images(3, 10), images(2, 10, seed=1)
    a, b = reordered(train, 0), reordered(test, 0)
    assert a.classes == b.classes != reordered(train, 1).classes
    assert sorted(a.classes) == sorted(train.classes)
    for data, before in ((a, train), (b, test)):
        assert [data.classes[i] for i in data.labels] == [before.classes[i] for i in before.labels]


def test_every_method_finds_its_schedule() -> None:
    """In the bundle that it names; a run of an hour must not end with a method that is not there."""
    request = Request("cifar", ("a", "b"), (32, 32, 3), (0.5,) * 3, (0.5,) * 3)
    wanted = [(method.bundle, method.schedule) for method in METHODS.values()]
    wanted += [("centre", schedule) for schedule in CLOSED]
    wanted += [(variant, schedule) for variant, titles in TRAINED.items() for schedule in titles]
    for variant, schedule in wanted:
        assert schedule in schedules(options=VARIANTS[variant](request).step), (variant, schedule)


@pytest.mark.usefixtures("toys")
def test_a_method_with_exemplars_sees_an_experience_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And has a few of it when the next one comes."""
    bundle, stored = toy.toy_bundle(tmp_path / "toy.bundle"), list[list[int]]()
    with Learner.open(bundle, tmp_path / "state") as learner:
        names = (*learner.classes, "stripes", "dots")
        latents = [learner.encode(toy.images(name, 600)) for name in names]
    data = Encoded(np.concatenate(latents), np.repeat(np.arange(len(names)), 600))
    first, update = len(names) - 2, Learner.update

    def noting(learner: Learner, method: str) -> Any:
        stored.append(np.bincount(learner.samples.labels, minlength=len(names)).tolist())
        return update(learner, method=method)

    monkeypatch.setattr(Learner, "update", noting)
    stage = Stage(data, data, names, [first, first + 1, first + 2], tmp_path, "litert", 1, 0.01, 5)
    method = replace(METHODS["freezing"], schedule="train")
    result = trained(stage, bundle, "toys", method, lambda text: None)
    assert [len(row) for row in result.course.rows] == stage.seen
    assert stored[0][first] == stored[1][first + 1] == 600
    assert 1 <= stored[1][first] <= 6
    with Learner.open(bundle, tmp_path / "toys.state") as learner:
        assert len(learner.samples) <= 12
    limited = trained(stage, bundle, "limited", replace(method, exemplars=False, store_mb=0.006), lambda text: None)
    assert limited.bytes > 0
    assert stored[2][first] < 60


def test_what_is_counted() -> None:
    course = Course([np.array([0.9, 0.7]), np.array([0.8, 0.6, 1.0]), np.array([0.5, 0.6, 0.7, 0.2])])
    assert course.curve == pytest.approx([0.8, 0.8, 0.5])
    assert course.average == pytest.approx(0.7)
    assert course.last == pytest.approx(0.5)
    assert course.forgetting == pytest.approx(((0.9 - 0.5) + (0.7 - 0.6) + (1.0 - 0.7)) / 3)
    assert per_class(np.array([0, 1, 1, 2]), np.array([0, 0, 1, 2]), 3).tolist() == [0.5, 1, 1]


@pytest.mark.parametrize("name", sorted(RIVALS))
def test_rivals_learn_what_can_be_separated(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    means = torch.rand(6, 16, generator=generator) * 4
    labels = torch.arange(6).repeat_interleave(60)
    features = (means[labels] + 0.3 * torch.randn(360, 16, generator=generator)).clamp(min=0)
    scores = RIVALS[name].scores(features[::2], labels[::2], features[1::2], [4, 6])
    assert scores.shape == (180, 6)
    assert (scores.argmax(1) == labels[1::2]).float().mean() > 0.9


def test_bundles_of_another_batch_are_others() -> None:
    data = images(2, 2)
    names = {
        Material(data, data, Settings(first=2, batch=batch), Path(), print)._settings_name for batch in (16, 32, 64)
    }
    assert len(names) == 3
    assert sum("batch16" in name for name in names) == 1


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("b50", 10),
        ("b50-mirrored", 10),
        ("b50-prepared", 10),
        ("b50-beside", 10),
        ("b50-resnet18", 10),
        ("b50x10", 5),
        ("b0", 10),
        ("cameras", 10),
    ],
)
def test_recipes_that_come_along(name: str, steps: int) -> None:
    recipe = recipes.load(f"cifar100-{name}")
    order = recipe.order(Path(), "litert", 2)
    assert set(np.diff(order.protocol.seen(100))) == {steps}
    assert order.settings.mirrored == (name == "b50-mirrored")
    check(recipe.stream.methods)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"ridge"', '"magic"', "no method 'magic'; choose of"),
        ('cut = "late"', 'cut = "deep"', "stream.cut has 'deep'; choose of late"),
        ('"dim"', '"fisheye"', "shift.cameras has 'fisheye'"),
        ("seeds = 1", "seeds = 0", "stream.seeds is 0"),
        ("epochs = 16", "", "missing key 'epochs'"),
        ("steps = 5", "steps = [", "no readable TOML"),
    ],
)
def test_bad_recipes(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = (Path(__file__).parents[2] / "models" / "cifar100-b50.toml").read_text()
    assert old in text
    (tmp_path / "bad.toml").write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=message.replace("[", r"\[")):
        recipes.load(str(tmp_path / "bad.toml"))
    with pytest.raises(InputError, match="there is no recipe"):
        recipes.load("none")


def test_tables_and_plots(tmp_path: Path) -> None:
    row = {"method": "auto", "title": "auto", "curve": [0.8, 0.7], "average": 0.75, "last": 0.7, "forgetting": 0.05,
           "average_spread": 0.01, "last_spread": 0.01, "forgetting_spread": 0.0, "seconds": 2.0,
           "bytes": 10**6}  # fmt: skip
    rival = {**row, "title": "FeTrIL", "seconds": None, "bytes": None}
    stream = {"base": [0.8, 0.79], "kind": "rotation labels", "epochs": 3, "protocol": {"seen": [5, 10]},
              "test_images": 100, "runtime": "litert", "rows": [row, rival]}  # fmt: skip
    table = stream_table(stream)
    assert table.row_count == 2
    assert "5 classes, then 1 × 5" in str(table.title)
    draw_stream(stream, tmp_path / "stream.png")
    draw_costs(stream, tmp_path / "costs.png")
    assert all((tmp_path / name).stat().st_size > 5000 for name in ("stream.png", "costs.png"))
    camera = {"cut": "late", "variant": "centre", "camera": "dim", "method": "auto", "title": "auto", "shifted": 0.5,
              "original": 0.6, "seconds": 3.0, "chosen": "closed form"}  # fmt: skip
    shift = {"shown": 20, "seconds": 30.0, "classes": 50, "test_images": 100, "runtime": "litert", "rows": [camera]}
    assert shift_table(shift).row_count == 1


def test_full_fine_tuning_learns_and_keeps_exemplars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four classes from a base of two: heads grow, exemplars of old classes stay with the new images."""
    monkeypatch.setattr("pocketstep.bench.accuracy.material.HELD_BACK", 0.25)
    monkeypatch.setattr("pocketstep.bench.accuracy.fine_tuning.RATE", 0.05)  # for as few steps as there are here
    train, test = images(24, 4, side=32), images(5, 4, side=32, seed=1)
    settings = Settings(first=2, epochs=4, replay_per_class=5)
    material = Material.of(train, test, settings, tmp_path, lambda text: None)
    result = fine_tuned(material, [2, 3, 4], lambda text: None)
    assert [len(row) for row in result.course.rows] == [2, 3, 4]
    assert min(row[-1] for row in result.course.rows) > 0.5
    assert len(result.seconds) == 2
    assert result.bytes == 4 * 5 * 32 * 32 * 3


@pytest.mark.slow
def test_the_whole_table(tmp_path: Path, cifar: str) -> None:
    """A base of one epoch, two methods, one camera: every part runs and its numbers are those of a learner."""
    from typer.testing import CliRunner

    from pocketstep.cli import app

    text = (Path(__file__).parents[2] / "models" / "cifar100-b50.toml").read_text()
    for old, new in (("epochs = 16", "epochs = 1"), ("test_per_class = 0", "test_per_class = 10"),
                     ('["middle"]', '["late"]')):  # fmt: skip
        text = text.replace(old, new)
    (tmp_path / "small.toml").write_text(text)
    arguments = ["--data", cifar, "--out", str(tmp_path / "out"), "--methods", "linear,closed-form,FeTrIL"]
    done = CliRunner().invoke(app, ["bench", "accuracy", str(tmp_path / "small.toml"), *arguments])
    assert done.exit_code == 0, done.output
    assert "streaming LDA" in done.output
    assert (tmp_path / "out" / "accuracy.png").exists()
