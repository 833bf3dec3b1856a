from __future__ import annotations

import numpy as np
import pytest

from pocketstep.data import Dataset, load_cifar, load_digits, load_npz, normalisation
from pocketstep_device.errors import InputError


def dataset(counts=(4, 3, 5), channels=1):
    labels = np.repeat(np.arange(len(counts)), counts)
    images = np.arange(len(labels) * 4 * channels, dtype=np.uint8).reshape(-1, 2, 2, channels)
    return Dataset(images, labels.astype(np.int64), tuple("abcdefgh"[: len(counts)]))


def write_cifar10(folder, per_file=20):
    root = folder / "cifar-10-batches-bin"
    root.mkdir()
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
        records = rng.integers(0, 256, (per_file, 3073), dtype=np.uint8)
        records[:, 0] = np.arange(per_file) % 10
        records.tofile(root / name)
    return root


@pytest.mark.parametrize(
    ("images", "labels", "classes", "message"),
    [
        (np.zeros((2, 3, 3, 1), np.float32), [0, 1], ("a", "b"), "float32"),
        (np.zeros((2, 3, 3), np.uint8), [0, 1], ("a", "b"), "(2, 3, 3)"),
        (np.zeros((2, 3, 3, 2), np.uint8), [0, 1], ("a", "b"), "1 or 3 channels"),
        (np.zeros((2, 3, 3, 1), np.uint8), [0], ("a",), "2 images"),
        (np.zeros((2, 3, 3, 1), np.uint8), [0, 2], ("a", "b"), "0..1"),
        (np.zeros((2, 3, 3, 1), np.uint8), [0, -1], ("a", "b"), "from -1"),
        (np.zeros((2, 3, 3, 1), np.uint8), [0, 0], ("a", "b"), "no image of class b"),
        (np.zeros((2, 3, 3, 1), np.uint8), [0, 1], ("a", "a"), "repeated"),
    ],
)
def test_what_is_not_a_dataset_is_refused(images, labels, classes, message):
    with pytest.raises(InputError) as caught:
        Dataset(images, np.array(labels, np.int64), classes)
    assert message in str(caught.value)


def test_select_relabels_in_the_order_asked_for():
    chosen = dataset().select(["c", 0])
    assert chosen.classes == ("c", "a")
    assert chosen.labels.tolist() == [1] * 4 + [0] * 5
    np.testing.assert_array_equal(chosen.images, dataset().images[[0, 1, 2, 3, 7, 8, 9, 10, 11]])
    with pytest.raises(InputError, match="no class 'z'"):
        dataset().select(["z"])


def test_per_class_keeps_at_most_n_and_depends_on_the_seed():
    full = dataset((40, 3))
    few = full.per_class(10, seed=1)
    assert np.bincount(few.labels).tolist() == [10, 3]
    np.testing.assert_array_equal(few.images, full.per_class(10, seed=1).images)
    assert not np.array_equal(few.images, full.per_class(10, seed=2).images)
    with pytest.raises(InputError):
        full.per_class(0)


def test_divide_takes_a_number_of_each_class_and_loses_nothing():
    full = dataset((40, 5))
    own, others = full.divide(4, seed=3)
    assert np.bincount(own.labels).tolist() == [4, 4]
    assert np.bincount(others.labels).tolist() == [36, 1]
    both = sorted(image.tobytes() for part in (own, others) for image in part.images)
    assert both == sorted(image.tobytes() for image in full.images)
    for n in (0, 5):
        with pytest.raises(InputError, match="ask for 1 to 4"):
            full.divide(n)


def test_split_is_stratified_and_loses_nothing():
    full = dataset((10, 20, 2))
    rest, part = full.split(0.3, seed=0)
    assert np.bincount(part.labels).tolist() == [3, 6, 1]
    both = np.concatenate([rest.images, part.images]).reshape(32, -1)
    assert {tuple(row) for row in both} == {tuple(row) for row in full.images.reshape(32, -1)}
    with pytest.raises(InputError, match="only one image"):
        dataset((1, 4)).split(0.5)
    with pytest.raises(InputError, match="between 0 and 1"):
        full.split(1.0)


def test_digits_are_enlarged_and_split_by_class():
    train, test = load_digits()
    assert train.images.shape[1:] == test.images.shape[1:] == (16, 16, 1)
    assert len(train) + len(test) == 1797
    assert train.classes == tuple("0123456789")
    assert 76 <= np.bincount(test.labels).min() <= np.bincount(test.labels).max() <= 82
    assert np.bincount(train.labels)[9] >= 100  # what the demo's device observes
    assert train.images.max() == 255
    assert train.images.min() == 0


def test_cifar_reads_records_planes_and_names(tmp_path):
    root = write_cifar10(tmp_path)
    train = load_cifar(tmp_path, "cifar10", "train")
    assert len(train) == 100
    assert train.classes == tuple("0123456789")
    first = np.fromfile(root / "data_batch_1.bin", np.uint8)[1:3073]
    assert train.images[0, 2, 5].tolist() == [first[2 * 32 + 5 + 1024 * plane] for plane in range(3)]
    (root / "batches.meta.txt").write_text("\n".join("klmnopqrst") + "\n\n")
    assert load_cifar(root, "cifar10", "test").classes == tuple("klmnopqrst")


def test_cifar100_takes_the_fine_label(tmp_path):
    records = np.zeros((100, 3074), np.uint8)
    records[:, 0], records[:, 1] = 7, np.arange(100)
    records.tofile(tmp_path / "test.bin")
    assert load_cifar(tmp_path, "cifar100", "test").labels.tolist() == list(range(100))


def test_damaged_cifar_is_refused(tmp_path):
    root = write_cifar10(tmp_path)
    with (root / "test_batch.bin").open("ab") as file:
        file.write(b"x")
    with pytest.raises(InputError, match="not a multiple of 3073"):
        load_cifar(tmp_path, "cifar10", "test")
    (root / "batches.meta.txt").write_text("cat dog")
    with pytest.raises(InputError, match="2 class names"):
        load_cifar(tmp_path, "cifar10", "train")
    (root / "data_batch_3.bin").unlink()
    with pytest.raises(InputError, match="data_batch_3"):
        load_cifar(tmp_path, "cifar10", "train")


def test_npz_round_trip_and_refusals(tmp_path):
    full, path = dataset(channels=3), tmp_path / "set.npz"
    np.savez(path, images=full.images, labels=full.labels.astype(np.int32), classes=np.array(full.classes))
    again = load_npz(path)
    np.testing.assert_array_equal(again.images, full.images)
    np.testing.assert_array_equal(again.labels, full.labels)
    assert again.classes == full.classes
    np.savez(path, images=full.images, labels=full.labels)
    with pytest.raises(InputError, match="lacks"):
        load_npz(path)
    np.savez(path, images=full.images, labels=full.labels, classes=np.array([object()], dtype=object))
    with pytest.raises(InputError, match="cannot read"):
        load_npz(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match="cannot read"):
        load_npz(path)


def test_normalisation_is_that_of_the_pixels():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)
    images[..., 2] = 51
    mean, std = normalisation(Dataset(images, np.zeros(6, np.int64), ("a",)))
    np.testing.assert_allclose(mean, (images / 255).mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std[:2], (images / 255).std((0, 1, 2))[:2], rtol=1e-12)
    assert std[2] == 1 / 255
