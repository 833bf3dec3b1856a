from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pocketstep_device import Budget, InputError, Learner, Progress, StateError
from pocketstep_device.bundle import Bundle
from pocketstep_device.bundle_writer import write_bundle, zip_bundle

Images = npt.NDArray[np.uint8]
Open = Callable[..., Learner]
OLD, NEW = [str(c) for c in range(9)], "9"


@pytest.fixture(scope="module")
def images(digits: Any) -> dict[str, Images]:
    """Test images by class."""
    return by_class(digits[1])


@pytest.fixture(scope="module")
def training(digits: Any) -> dict[str, Images]:
    """Training images by class: what a device may observe."""
    return by_class(digits[0])


def by_class(dataset: Any) -> dict[str, Images]:
    return {name: dataset.images[dataset.labels == label] for label, name in enumerate(dataset.classes)}


def accuracy(learner: Learner, images: dict[str, Images], names: list[str]) -> float:
    """Mean over classes."""
    return float(
        np.mean([np.mean([label == name for label in learner.classify(images[name]).labels]) for name in names])
    )


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def learn(learner: Learner, new: Images, name: str = NEW, method: str = "closed-form") -> Any:
    if name not in learner.classes:
        learner.add_class(name)
    learner.observe(new, name)
    return learner.update(method=method)


def with_schedule(bundle: Path, target: Path, max_old_loss: float) -> Path:
    """A copy of a bundle whose closed-form schedule accepts another loss."""
    opened = Bundle.open(bundle)
    manifest = json.loads((opened.path / "manifest.json").read_bytes())
    del manifest["files"]
    manifest["schedules"]["closed-form"]["accept"]["max_old_loss"] = max_old_loss
    return write_bundle(target, manifest, {n: opened.read(n) for n in opened.manifest.files}).path


# Classifying


def test_classify(open_learner: Open, images: dict[str, Images]) -> None:
    learner = open_learner()
    batch = np.concatenate([images[name][:5] for name in OLD])
    labels, probabilities, classes = learner.classify(batch)
    assert classes == OLD == learner.classes
    assert probabilities.shape == (45, 9)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    assert labels == [OLD[i] for i in probabilities.argmax(1)]
    assert accuracy(learner, images, OLD) >= 0.9
    floats = learner.classify(batch.astype(np.float64))
    np.testing.assert_array_equal(floats.probabilities, probabilities)
    one = learner.classify(batch[3])
    np.testing.assert_allclose(one.probabilities, probabilities[3:4], atol=1e-6)
    assert one.labels == labels[3:4]


def test_status_of_a_fresh_learner(open_learner: Open) -> None:
    learner = open_learner()
    status = learner.status()
    assert json.loads(json.dumps(status)) == status
    assert status["classes"] == OLD
    assert (status["free_slots"], status["updates"], status["pending_samples"]) == (3, 0, 0)
    assert not status["can_roll_back"]
    with pytest.raises(StateError, match="no update to roll back"):
        learner.rollback()


# Learning


def test_learns_a_new_class(
    open_learner: Open, bundle_path: Path, tmp_path: Path, images: dict[str, Images], training: dict[str, Images]
) -> None:
    """auto: the new class is known, the old ones stay; all of it survives closing and can be taken back."""
    learner = open_learner()
    before = accuracy(learner, images, OLD)
    learner.add_class(NEW)
    assert learner.observe(training[NEW][:60], NEW) == 60
    status = learner.status()
    assert status["not_yet_learned"] == [NEW]
    assert status["pending_samples"] == status["stored_samples"][NEW] == 60
    assert learner.classify(images[NEW]).classes == OLD  # not before the update
    probe = np.concatenate([images[name][:3] for name in [*OLD, NEW]])
    earlier = learner.classify(probe)
    seen: list[Progress] = []
    report = learner.update(on_progress=seen.append)
    assert report.accepted
    assert report.method == "auto"
    assert report.chosen in [phase.phase for phase in report.phases]
    assert len(report.phases) == 4
    assert report.old_accuracy >= report.old_before - 0.03
    assert sum(phase.steps for phase in report.phases) == len(seen) > 0
    assert all(np.isfinite(p.loss) for p in seen)
    assert {p.phase for p in seen} <= {phase.phase for phase in report.phases}
    assert accuracy(learner, images, [NEW]) >= 0.8
    assert accuracy(learner, images, OLD) >= before - 0.05
    after = learner.classify(probe)
    assert after.classes == [*OLD, NEW]
    assert learner.status()["pending_samples"] == 0
    with pytest.raises(InputError, match="nothing was observed"):
        learner.update()

    learner.close()
    again = open_learner()
    np.testing.assert_array_equal(again.classify(probe).probabilities, after.probabilities)
    assert again.status()["updates"] == 1

    again.rollback()
    np.testing.assert_array_equal(again.classify(probe).probabilities, earlier.probabilities)
    assert again.classes == [*OLD, NEW]
    assert again.status()["pending_samples"] == 60
    again.close()
    third = open_learner()
    np.testing.assert_array_equal(third.classify(probe).probabilities, earlier.probabilities)
    with pytest.raises(StateError, match="no update to roll back"):
        third.rollback()
    assert third.update(method="closed-form").accepted
    assert accuracy(third, images, [NEW]) >= 0.8


def test_two_classes_one_after_the_other(
    open_learner: Open, images: dict[str, Images], training: dict[str, Images]
) -> None:
    """The second class is the first one upside down; the first stays known."""
    learner = open_learner()
    learn(learner, training[NEW][:50])
    assert learn(learner, training["7"][:50, ::-1], "upside down").accepted
    assert accuracy(learner, images, [NEW]) >= 0.75
    turned = learner.classify(images["7"][:, ::-1])
    assert np.mean([label == "upside down" for label in turned.labels]) >= 0.75


def test_what_was_observed_after_an_update_survives_a_rollback(open_learner: Open, training: dict[str, Images]) -> None:
    """Rolling back takes the update back, not images or classes that came later."""
    learner = open_learner()
    learn(learner, training[NEW][:20])
    learner.add_class("other")
    learner.observe(training["0"][:10], "other")
    learner.rollback()
    assert learner.classes == [*OLD, NEW, "other"]
    status = learner.status()
    assert status["stored_samples"][NEW] == 20
    assert status["stored_samples"]["other"] == 10
    assert status["pending_samples"] == 30
    assert learner.update(method="closed-form").method == "closed-form"


def test_every_fifth_image_judges(open_learner: Open, training: dict[str, Images]) -> None:
    """In one call or many."""
    learner = open_learner()
    learner.add_class(NEW)
    for start in range(0, 12, 3):
        learner.observe(training[NEW][start : start + 3], NEW)
    held = learner._samples.held_back
    assert np.flatnonzero(held).tolist() == [4, 9]


def test_rejected_update_changes_nothing(
    open_learner: Open, bundle_path: Path, tmp_path: Path, training: dict[str, Images]
) -> None:
    """Zeros called by a new name cost the zeros, which this schedule does not accept."""
    learner = open_learner(with_schedule(bundle_path, tmp_path / "strict.bundle", 0.0))
    learner.add_class("not a zero")
    learner.observe(training["0"][:60], "not a zero")
    before, probabilities = content(tmp_path / "state"), learner.classify(training["0"]).probabilities
    report = learner.update(method="closed-form")
    assert not report.accepted
    assert report.chosen == ""
    assert report.old_accuracy == report.old_before
    assert report.phases[0].old_accuracy < report.old_before
    assert "rolled back" in report.reason
    assert content(tmp_path / "state") == before
    np.testing.assert_array_equal(learner.classify(training["0"]).probabilities, probabilities)
    assert learner.status()["pending_samples"] == 60


def test_forgets_a_class_on_request(
    open_learner: Open, tmp_path: Path, images: dict[str, Images], training: dict[str, Images]
) -> None:
    """Nothing of it is left in the statistics or the store; it can be taught again, and so can a better one."""
    learner = open_learner()
    fresh = {name: learner._values[name].copy() for name in ("count", "total", "second")}
    assert learn(learner, training[NEW][:60]).accepted
    learner.forget(NEW)
    for name, value in fresh.items():
        np.testing.assert_allclose(learner._values[name], value, atol=1e-4 * np.abs(value).max(), err_msg=name)
    assert learner.classify(images[NEW]).classes == OLD
    assert learner.status()["stored_samples"][NEW] == 0
    assert not learner.status()["can_roll_back"]
    with pytest.raises(InputError, match="nothing was observed"):
        learner.update()
    learner.close()
    again = open_learner()
    assert again.classify(images[NEW]).classes == OLD
    assert learn(again, training[NEW][:60]).accepted
    assert accuracy(again, images, [NEW]) >= 0.8
    with pytest.raises(InputError, match="no class 'none'"):
        again.forget("none")


def test_a_full_store_still_counts_in_the_statistics(
    bundle_path: Path, tmp_path: Path, images: dict[str, Images], training: dict[str, Images]
) -> None:
    """The closed form learns from all that was observed, also from what the store had no room for."""
    with Learner.open(bundle_path, tmp_path / "small", store_mb=0.05) as learner:
        learner.add_class(NEW)
        for start in range(0, 100, 20):
            learner.observe(training[NEW][start : start + 20], NEW)
        assert learner.status()["stored_samples"][NEW] < 40
        assert learner._values["count"][len(OLD)] == 80  # every fifth judges
        assert learner.update(method="closed-form").accepted
        assert accuracy(learner, images, [NEW]) >= 0.8


def test_cancelled_update_changes_nothing(open_learner: Open, tmp_path: Path, training: dict[str, Images]) -> None:
    class Cancelled(Exception):
        pass

    def cancel(progress: Progress) -> None:
        if progress.step == 3:
            raise Cancelled

    learner = open_learner()
    learner.add_class(NEW)
    learner.observe(training[NEW][:20], NEW)
    before, probabilities = content(tmp_path / "state"), learner.classify(training[NEW]).probabilities
    with pytest.raises(Cancelled):
        learner.update(on_progress=cancel, method="replay")
    assert content(tmp_path / "state") == before
    np.testing.assert_array_equal(learner.classify(training[NEW]).probabilities, probabilities)
    assert learner.update(method="closed-form").accepted


def test_little_time_stops_early(open_learner: Open, training: dict[str, Images]) -> None:
    learner = open_learner()
    learner.add_class(NEW)
    learner.observe(training[NEW][:20], NEW)
    report = learner.update(Budget(seconds=1e-6))
    assert [phase.steps for phase in report.phases] == [0]
    assert report.accepted  # the closed form takes no steps
    assert np.isfinite([report.old_accuracy, report.new_accuracy, report.seconds]).all()
    assert learner.status()["pending_samples"] == 0


def test_memory_budget(open_learner: Open, bundle_path: Path, tmp_path: Path, training: dict[str, Images]) -> None:
    """Too little, in a process of its own: this one has memory left over from other tests. Then enough."""
    learner = open_learner()
    learner.add_class(NEW)
    learner.observe(training[NEW][:20], NEW)
    learner.close()
    before = content(tmp_path / "state")
    code = (
        "import sys\nfrom pocketstep_device import Budget, CheckFailedError, Learner\n"
        "with Learner.open(sys.argv[1], sys.argv[2]) as learner:\n"
        "    try:\n        learner.update(Budget(memory_mb=0.001))\n"
        "    except CheckFailedError as error:\n        print(error, learner.status()['pending_samples'])"
    )
    command = [sys.executable, "-c", code, str(bundle_path), str(tmp_path / "state")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "more than its budget" in done.stdout
    assert done.stdout.endswith(" 20\n")
    assert content(tmp_path / "state") == before
    assert open_learner().update(Budget(memory_mb=4000), method="closed-form").accepted


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_budgets_are_positive(value: float) -> None:
    for name in ("seconds", "memory_mb"):
        with pytest.raises(InputError, match=name):
            Budget(**{name: value})


def test_the_same_seed_learns_the_same(
    open_learner: Open, tmp_path: Path, training: dict[str, Images], images: dict[str, Images]
) -> None:
    results = []
    for name in ("one", "two"):
        learner = open_learner(state=tmp_path / name)
        learn(learner, training[NEW][:25], method="fine-tune")
        results.append(learner.classify(images[NEW]).probabilities)
    np.testing.assert_array_equal(*results)


# Bad input


BLANK = np.zeros((2, 16, 16, 1), np.uint8)
BAD_IMAGES: dict[str, tuple[Any, str]] = {
    "NaN": (np.full(BLANK.shape, np.nan, np.float32), "NaN or infinite"),
    "one infinite pixel": (np.where(np.arange(512).reshape(BLANK.shape) == 99, np.inf, 0.0), "NaN or infinite"),
    "size": (np.zeros((2, 16, 17, 1), np.uint8), r"shape \(2, 16, 17, 1\) given; .* \(N, 16, 16, 1\)"),
    "channels": (np.zeros((2, 16, 16, 3), np.uint8), "shape"),
    "no channel": (np.zeros((2, 16, 16), np.uint8), "shape"),
    "none": (BLANK[:0], "shape"),
    "rank 5": (BLANK[None], "shape"),
    "int": (BLANK.astype(np.int64), "images are int64"),
    "bool": (BLANK.astype(np.bool_), "images are bool"),
    "complex": (BLANK.astype(np.complex64), "images are complex64"),
    "text": (np.full(BLANK.shape, "a"), "images are"),
    "above": (np.full(BLANK.shape, 255.5), "range is 0 to 255"),
    "below": (np.full(BLANK.shape, -0.01, np.float32), "range is 0 to 255"),
    "None": (None, "shape"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_bad_images(open_learner: Open, tmp_path: Path, name: str) -> None:
    images, reason = BAD_IMAGES[name]
    learner = open_learner()
    for use in (learner.classify, lambda images: learner.observe(images, "3")):
        with pytest.raises(InputError, match=reason):
            use(images)
    assert set(content(tmp_path / "state")) == {".lock"}


def test_bad_names(open_learner: Open, tmp_path: Path) -> None:
    learner = open_learner()
    with pytest.raises(InputError, match=r"no class 'cat' here; add_class\('cat'\) first. Known: 0, 1"):
        learner.observe(BLANK, "cat")
    with pytest.raises(InputError, match="a class '3' already"):
        learner.add_class("3")
    for name in ("", "a\nb", "x" * 201, "\0"):
        with pytest.raises(InputError, match="no class name"):
            learner.add_class(name)
    with pytest.raises(InputError, match="nothing was observed"):
        learner.update()
    with pytest.raises(InputError, match="unknown method 'magic'; this bundle has auto, centre-taps, closed-form"):
        learner.update(method="magic")
    assert set(content(tmp_path / "state")) == {".lock"}
    for name in ("a", "b", "ç 東"):
        learner.add_class(name)
    with pytest.raises(InputError, match="all 12 class slots are taken"):
        learner.add_class("d")
    assert learner.free_slots == 0
    with pytest.raises(InputError, match="nothing was observed"):  # a class without images teaches nothing
        learner.update()


def test_bad_options(bundle_path: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    for options, reason in (
        ({"runtime": "onnx"}, "unknown runtime 'onnx'; choose from executorch, litert, tflite"),
        ({"threads": 0}, "0 threads make no sense"),
    ):
        with pytest.raises(InputError, match=reason):
            Learner.open(bundle_path, state, **options)
    assert not state.exists()


# State


def test_two_processes_on_one_state(open_learner: Open, bundle_path: Path, tmp_path: Path) -> None:
    learner = open_learner()
    learner.add_class(NEW)
    command = [
        sys.executable,
        "-m",
        "pocketstep_device",
        "status",
        str(bundle_path),
        "--state",
        str(tmp_path / "state"),
    ]
    other = subprocess.run(command, capture_output=True, text=True, check=False)
    assert other.returncode == 2
    assert "in use by another process" in other.stderr
    learner.close()
    after = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    assert json.loads(after.stdout)["classes"] == [*OLD, NEW]


def test_state_of_another_bundle(open_learner: Open, bundle_path: Path, tmp_path: Path) -> None:
    learner = open_learner()
    learner.add_class(NEW)
    learner.close()
    before = content(tmp_path / "state")
    other = with_schedule(bundle_path, tmp_path / "other.bundle", 0.5)
    with pytest.raises(StateError, match="belongs to another bundle"):
        open_learner(other)
    assert content(tmp_path / "state") == before
    assert open_learner().classes == [*OLD, NEW]  # and the lock is free again


def test_state_lies_beside_the_bundle(bundle_path: Path, tmp_path: Path) -> None:
    zip_bundle(bundle_path, tmp_path / "digits.zip")
    with Learner.open(tmp_path / "digits.zip") as learner:
        learner.add_class(NEW)
    assert (tmp_path / "digits.zip.state" / "snapshot-000001.safetensors").exists()


def test_small_store_keeps_what_fits(bundle_path: Path, tmp_path: Path, training: dict[str, Images]) -> None:
    with Learner.open(bundle_path, tmp_path / "state", store_mb=0.2) as learner:  # 4 KiB a latent
        learner.add_class(NEW)
        for start in range(0, 60, 20):
            learner.observe(training[NEW][start : start + 20], NEW)
        stored = learner.status()["stored_samples"][NEW]
        assert 20 <= stored < 60
        files = [p.stat().st_size for p in (tmp_path / "state").glob("latents-*")]
        assert max(files) <= 0.2 * 2**20
        assert learner.update(method="closed-form").accepted


# Runtimes and containers


def test_runtimes_agree(
    open_learner: Open, tmp_path: Path, training: dict[str, Images], images: dict[str, Images]
) -> None:
    """Also after an update that each runs itself."""
    probe = np.concatenate([images[name][:10] for name in [*OLD, NEW]])
    before, after = [], []
    for runtime in ("litert", "executorch"):
        learner = open_learner(state=tmp_path / runtime, runtime=runtime)
        before.append(learner.classify(probe))
        learn(learner, training[NEW][:30])
        after.append(learner.classify(probe))
    for one, other in (before, after):
        assert one.labels == other.labels
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-4)
    assert after[0].classes == [*OLD, NEW]


def test_zip_is_as_good_as_the_folder(
    open_learner: Open, bundle_path: Path, tmp_path: Path, training: dict[str, Images], images: dict[str, Images]
) -> None:
    zip_bundle(bundle_path, tmp_path / "digits.zip")
    folder = open_learner(state=tmp_path / "one")
    zipped = open_learner(tmp_path / "digits.zip", tmp_path / "two")
    reports = []
    for learner in (folder, zipped):
        reports.append(dataclasses.asdict(learn(learner, training[NEW][:20])))
    for key in ("accepted", "chosen", "old_before", "old_accuracy", "new_accuracy"):
        assert reports[0][key] == reports[1][key]
    one, other = (learner.classify(images[NEW]) for learner in (folder, zipped))
    np.testing.assert_array_equal(one.probabilities, other.probabilities)
    zipped.close()
    assert open_learner(bundle_path, tmp_path / "two").classes == [*OLD, NEW]  # the same bundle, the same state
