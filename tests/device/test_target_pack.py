"""Target packs on a device: what is read, what is refused, and what an update makes of them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mutations
import numpy as np
import packs
import pytest
import toy

from pocketstep_device.budget import Budget, Meter
from pocketstep_device.bundle import Bundle
from pocketstep_device.cli import main
from pocketstep_device.errors import CheckFailedError, InputError
from pocketstep_device.judge import judge
from pocketstep_device.learner import Learner
from pocketstep_device.samples import NO_LOGIT, TEACHER
from pocketstep_device.shuffle import SplitMix64
from pocketstep_device.target_pack import Lesson, TargetPack
from pocketstep_device.training import Trainer

SOLVE = {"kind": "solve", "name": "closed form", "shrinkage": 0.05}
ACCEPT = {"max_old_loss": 0.2, "max_class_loss": 1.0}
SCHEDULES = {"targets": {"meaning": "for tests", "phases": [SOLVE], "accept": ACCEPT}}
NAMES = ("bright", "stripes", "dark")


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    toy.install(monkeypatch)
    return toy.toy_bundle(tmp_path / "toy.bundle", schedules=SCHEDULES)


@pytest.fixture
def learner(bundle: Path, tmp_path: Path) -> Iterator[Learner]:
    with Learner.open(bundle, tmp_path / "state") as opened:
        yield opened


def pack_of(bundle: Path, tmp_path: Path, names: tuple[str, ...] = NAMES, count: int = 10) -> TargetPack:
    """A sure teacher on images of its classes."""
    with Learner.open(bundle, tmp_path / "encoding") as encoder:
        latents = np.concatenate([encoder.encode(toy.images(name, count, seed=3)) for name in names])
    logits = (8 * np.eye(len(names), dtype=np.float32)).repeat(count, 0)
    order = np.random.default_rng(0).permutation(len(latents))
    return TargetPack(names, latents[order], logits[order])


@pytest.fixture
def file(bundle: Path, tmp_path: Path) -> Path:
    path = tmp_path / "unlabelled.pack"
    pack_of(bundle, tmp_path).write(path, Bundle.open(bundle))
    return path


def accuracy(learner: Learner, name: str) -> float:
    found = learner.classify(toy.images(name, 40, seed=8)).labels
    return float(np.mean([label == name for label in found]))


def test_a_class_is_learned_without_a_label(learner: Learner, file: Path) -> None:
    report = learner.update(targets=file)
    assert report.accepted, report.reason
    assert report.method == "targets"
    assert learner.classes == ["dark", "bright", "stripes"]
    assert accuracy(learner, "stripes") > 0.9
    assert min(accuracy(learner, "dark"), accuracy(learner, "bright")) > 0.9
    assert len(learner.samples) == 0  # nothing of the pack is stored


def test_what_it_taught_is_there_after_a_restart_and_a_later_update(bundle: Path, tmp_path: Path, file: Path) -> None:
    with Learner.open(bundle, tmp_path / "state") as learner:
        learner.update(targets=file)
    with Learner.open(bundle, tmp_path / "state") as learner:
        learner.add_class("dots")
        learner.observe(toy.images("dots", 20), "dots")
        assert learner.update(method="closed-form").accepted
        assert min(accuracy(learner, "stripes"), accuracy(learner, "dots")) > 0.9


def test_rollback_takes_the_packs_statistics_back(learner: Learner, file: Path) -> None:
    before = {name: value.copy() for name, value in learner.values.items()}
    learner.update(targets=file)
    learner.observe(toy.images("dark", 10, seed=5), "dark")
    learner.rollback()
    assert learner.values["count"].sum() == pytest.approx(before["count"].sum() + 8)  # every fifth is held back
    assert learner.values["count"][2] == 0
    np.testing.assert_array_equal(learner.values["class_mask"], before["class_mask"])
    assert learner.update(targets=file).accepted  # and it can be learned again


def test_a_refused_pack_changes_nothing(learner: Learner, bundle: Path, tmp_path: Path) -> None:
    """A teacher that takes dark for bright and bright for dark."""
    pack = pack_of(bundle, tmp_path, count=100)
    wrong = replace(pack, logits=np.ascontiguousarray(pack.logits[:, ::-1]))
    wrong.write(tmp_path / "wrong.pack", Bundle.open(bundle))
    before = {name: value.copy() for name, value in learner.values.items()}
    report = learner.update(targets=tmp_path / "wrong.pack")
    assert not report.accepted
    assert learner.classes == ["dark", "bright"]
    assert all(np.array_equal(value, before[name]) for name, value in learner.values.items())


def test_a_lesson_speaks_of_its_classes_only(bundle: Path, tmp_path: Path) -> None:
    pack = pack_of(bundle, tmp_path)
    classes = pack.with_classes(["dark", "bright"], 6)
    assert classes == ["dark", "bright", "stripes"]
    lesson = pack.lesson(classes, Bundle.open(bundle).manifest)
    slots = {"dark": 0, "bright": 1, "stripes": 2}
    for row, logits in enumerate(pack.logits):
        assert lesson.samples.labels[row] == slots[NAMES[int(logits.argmax())]]
        assert [float(lesson.samples.soft_targets[row, slots[n]]) for n in NAMES] == logits.tolist()
    assert (lesson.samples.soft_targets[:, 3:] == NO_LOGIT).all()
    assert lesson.taught.tolist() == [1, 1, 1, 0, 0, 0]
    assert (lesson.samples.origin == TEACHER).all()
    assert lesson.samples.held_back.sum() == len(pack.latents) // 5


def test_a_teacher_may_be_sure_of_nothing(learner: Learner, bundle: Path, tmp_path: Path) -> None:
    """Logits below that of slots that nobody speaks of."""
    pack = pack_of(bundle, tmp_path)
    low = replace(pack, logits=pack.logits - 100)
    classes = low.with_classes(learner.classes, 6)
    lesson = low.lesson(classes, learner.manifest)
    assert lesson.taught.tolist() == [1, 1, 1, 0, 0, 0]
    np.testing.assert_array_equal(lesson.samples.labels, pack.lesson(classes, learner.manifest).samples.labels)


def test_a_class_that_the_teacher_does_not_see_takes_no_slot(learner: Learner, bundle: Path, tmp_path: Path) -> None:
    pack = pack_of(bundle, tmp_path)
    never = np.full((len(pack.logits), 1), -5, np.float32)
    more = replace(pack, classes=(*NAMES, "unseen"), logits=np.concatenate([pack.logits, never], 1))
    more.write(tmp_path / "more.pack", Bundle.open(bundle))
    assert learner.update(targets=tmp_path / "more.pack").accepted
    assert learner.classes == ["dark", "bright", "stripes"]
    lesson = more.lesson(learner.classes, learner.manifest)
    assert lesson.taught.tolist() == [1, 1, 1, 0, 0, 0]


def trainer(learner: Learner, lesson: Lesson) -> Trainer:
    """Of the lesson alone, targets cached."""
    machine: Any = learner._machine
    known = learner.values["class_mask"]
    meter, random64 = Meter(Budget()), SplitMix64(0)
    samples = lesson.samples
    made = Trainer(
        machine, known, samples, meter, random64, lambda values: judge(machine, values, samples), lesson=lesson
    )  # fmt: skip
    made.cache_targets(dict(learner.values))
    return made


def test_guessed_labels_train_nothing(learner: Learner, bundle: Path, tmp_path: Path) -> None:
    pack = pack_of(bundle, tmp_path)
    lesson = pack.lesson(pack.with_classes(learner.classes, 6), learner.manifest)
    batch = trainer(learner, lesson)._batch(np.arange(4), 16)
    assert not batch["label_weights"].any()
    assert batch["soft_weights"].tolist() == [1.0] * 4 + [0.0] * 12
    assert "feature_targets" not in batch


def test_features_go_to_their_own_samples(learner: Learner, bundle: Path, tmp_path: Path) -> None:
    pack = pack_of(bundle, tmp_path)
    lesson = pack.lesson(pack.with_classes(learner.classes, 6), learner.manifest)
    features = np.arange(len(pack.latents), dtype=np.float32)[:, None] + 1
    both = replace(lesson, samples=lesson.samples.concat([lesson.samples.select(np.arange(3)), lesson.samples]))
    batch = trainer(learner, replace(both, features=features))._batch(np.array([1, 3, 8]), 4)
    assert batch["feature_targets"][:, 0].tolist() == [0.0, 1.0, 6.0, 0.0]
    assert batch["feature_weights"].tolist() == [0.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize("name", packs.malformed(""))
def test_malformed_packs_are_refused(learner: Learner, file: Path, name: str) -> None:
    file.write_bytes(packs.good(learner.bundle.digest))
    TargetPack.read(file, learner.bundle)  # it is one change that makes it wrong
    file.write_bytes(packs.malformed(learner.bundle.digest)[name])
    with pytest.raises(InputError):
        learner.update(targets=file)
    assert learner.classes == ["dark", "bright"]


def test_changed_packs_are_refused_or_harmless(learner: Learner, file: Path) -> None:
    """Structure-aware mutations, repeatable by their number."""
    whole, outcomes = packs.good(learner.bundle.digest), Counter[bool]()
    for number in range(1500):
        file.write_bytes(mutations.mutate_tensors(whole, random.Random(number)))
        try:
            pack = TargetPack.read(file, learner.bundle)
            lesson = pack.lesson(pack.with_classes(learner.classes, 6), learner.manifest)
        except InputError:
            outcomes[False] += 1
        else:
            assert np.isfinite(lesson.samples.soft_targets).all(), number
            outcomes[True] += 1
    assert min(outcomes[False], outcomes[True]) > 50


def test_a_pack_that_is_not_there(learner: Learner, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.pack"):
        learner.update(targets=tmp_path / "none.pack")
    (tmp_path / "folder.pack").mkdir()
    with pytest.raises(InputError, match="no plain file"):
        learner.update(targets=tmp_path / "folder.pack")


def test_more_classes_than_slots(bundle: Path, tmp_path: Path) -> None:
    names = ("dark", "bright", *(f"class {i}" for i in range(5)))
    pack_of(bundle, tmp_path, names, 2).write(tmp_path / "many.pack", Bundle.open(bundle))
    with Learner.open(bundle, tmp_path / "state") as learner, pytest.raises(InputError, match="4 slots are free"):
        learner.update(targets=tmp_path / "many.pack")


def test_the_method_needs_a_pack_and_the_pack_the_method(learner: Learner, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="target pack"):
        learner.update(method="targets")
    older = toy.toy_bundle(tmp_path / "older.bundle")
    pack_of(older, tmp_path / "older").write(tmp_path / "older.pack", Bundle.open(older))
    with Learner.open(older, tmp_path / "older.state") as old, pytest.raises(InputError, match="before there were"):
        old.update(targets=tmp_path / "older.pack")


def test_the_budget_counts_the_pack(learner: Learner, file: Path) -> None:
    with pytest.raises(CheckFailedError, match=r"budget of 0\.5 MiB"):
        learner.update(Budget(memory_mb=0.5), targets=file)


def test_from_a_shell(bundle: Path, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = ["--state", str(tmp_path / "state")]
    assert main(["learn", str(bundle), *state, "--targets", str(file)]) == 0
    assert "kept 'closed form'" in capsys.readouterr().out
    assert main(["learn", str(bundle), *state, "--targets", str(tmp_path / "none.pack")]) == 2
