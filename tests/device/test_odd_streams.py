"""What people really show a device: wrong labels, one picture, one class at a time, the same again, another camera."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pocketstep_device import InputError, Learner

Images = npt.NDArray[np.uint8]
Open = Callable[..., Learner]
Pictures = tuple[dict[str, Images], dict[str, Images]]
"""Training and test images by class."""
NEW, SPARE = "9", 100


@pytest.fixture(scope="module")
def pictures(digits: Any) -> Pictures:
    """Training and test images by class."""
    train, test = ({n: d.images[d.labels == c] for c, n in enumerate(d.classes)} for d in digits)
    return train, test


@pytest.fixture(scope="module")
def old(pictures: Pictures) -> dict[str, Images]:
    """Test images of the classes that the bundle knows."""
    return {n: images for n, images in pictures[1].items() if n != NEW}


def share(learner: Learner, images: Images, name: str) -> float:
    return float(np.mean([found == name for found in learner.classify(images).labels]))


def mean(learner: Learner, test: dict[str, Images]) -> float:
    return float(np.mean([share(learner, images, name) for name, images in test.items()]))


def test_wrong_labels(open_learner: Open, pictures: Pictures, old: dict[str, Images]) -> None:
    """Every fourth picture of the new class is of others: it is learned, and the others stay."""
    train, test = pictures
    learner = open_learner()
    before = mean(learner, old)
    learner.add_class(NEW)
    wrong = np.concatenate([train[str(digit)][:4] for digit in range(9)])
    learner.observe(np.concatenate([train[NEW][:108], wrong]), NEW)
    report = learner.update()
    assert report.accepted
    assert share(learner, test[NEW], NEW) > 0.8
    assert mean(learner, old) > before - 0.05


def test_one_picture(open_learner: Open, pictures: Pictures, old: dict[str, Images]) -> None:
    """No held-back picture can judge it; the others stay, and the one picture is known."""
    train, _ = pictures
    learner = open_learner()
    before = mean(learner, old)
    learner.add_class(NEW)
    learner.observe(train[NEW][:1], NEW)
    assert learner.update().accepted
    assert learner.classify(train[NEW][:1]).labels == [NEW]
    assert mean(learner, old) > before - 0.05


def test_the_same_pictures_again(open_learner: Open, pictures: Pictures) -> None:
    """They teach nothing new, and count once."""
    train, _ = pictures
    learner = open_learner()
    learner.add_class(NEW)
    learner.observe(train[NEW][:60], NEW)
    learner.update(method="closed-form")
    kept, count = learner.status(), learner._values["count"].copy()
    learner.observe(train[NEW][:60], NEW)
    assert learner.status() == kept
    np.testing.assert_array_equal(learner._values["count"], count)


def test_known_classes_under_another_camera(open_learner: Open, pictures: Pictures, old: dict[str, Images]) -> None:
    """Darker and without contrast: an update helps there and leaves the old pictures as they were."""
    train, _ = pictures

    def dim(images: Images) -> Images:
        return (images // 6 + 10).astype(np.uint8)

    learner = open_learner()
    before, there = mean(learner, old), mean(learner, {n: dim(images) for n, images in old.items()})
    for name in old:
        learner.observe(dim(train[name][:30]), name)
    assert learner.update().accepted
    assert mean(learner, {n: dim(images) for n, images in old.items()}) > max(there, 0.5)
    assert mean(learner, old) > before - 0.05


def test_a_hundred_classes_one_by_one(tmp_path: Path, digits: Any) -> None:
    """Each is a pattern with noise; the first ones are not lost on the way; then there is no slot left."""
    from pocketstep.assemble import build_bundle
    from pocketstep.export.run import Exporters
    from pocketstep.networks import ResidualNet
    from pocketstep.request import Request

    train = digits[0].select(range(2))
    net = ResidualNet(2, 1, (16, 32), 1)
    request = Request(
        "many", train.classes, (16, 16, 1), (0.3,), (0.3,), "head", "group1", spare_classes=SPARE, replay_per_class=2,
        directions=8,
    )  # fmt: skip
    with Exporters(["litert"]) as exporters:
        build_bundle(net, net, request, train, None, tmp_path / "many.bundle", exporters, lambda stage: None)
    random = np.random.default_rng(0)
    patterns = random.integers(0, 256, (SPARE, 16, 16, 1))

    def shown(label: int, count: int) -> Images:
        noise = random.normal(0, 25, (count, 16, 16, 1))
        return np.clip(patterns[label] + noise, 0, 255).astype(np.uint8)

    with Learner.open(tmp_path / "many.bundle", tmp_path / "state") as learner:
        for label in range(SPARE):
            learner.add_class(f"pattern {label}")
            learner.observe(shown(label, 10), f"pattern {label}")
            assert learner.update(method="closed-form").accepted
        found = [share(learner, shown(label, 5), f"pattern {label}") for label in range(SPARE)]
        assert np.mean(found) > 0.95
        assert np.mean(found[:20]) > 0.9
        with pytest.raises(InputError, match="slot"):
            learner.add_class("one more")
