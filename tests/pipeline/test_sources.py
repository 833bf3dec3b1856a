"""Reading images in every form, and what is wrong with them, said before long work starts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pocketstep.sources import load_data
from pocketstep_device.errors import InputError


def write(folder: Path, count: int, size: tuple[int, int] = (8, 8), mode: str = "RGB", seed: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for index in range(count):
        shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(folder / f"{mode}{index}.png")


def test_a_folder_of_classes_is_split(tmp_path):
    write(tmp_path / "cat", 10)
    write(tmp_path / "dog", 5)
    train, test = load_data("folder", tmp_path)
    assert train.classes == test.classes == ("cat", "dog")
    assert np.bincount(train.labels).tolist() == [8, 4]
    assert np.bincount(test.labels).tolist() == [2, 1]


def test_train_and_test_folders_and_a_size(tmp_path):
    for part, count in (("train", 4), ("test", 2)):
        write(tmp_path / part / "cat", count)
        write(tmp_path / part / "dog", count, (12, 10), "L")
    with pytest.raises(InputError, match=r"L0.png is grey, .*RGB0.png coloured: save all pictures in one"):
        load_data("folder", tmp_path, size=6)
    for part, count in (("train", 4), ("test", 2)):
        for path in (tmp_path / part / "dog").iterdir():
            path.unlink()
        write(tmp_path / part / "dog", count, (12, 10))
    with pytest.raises(InputError, match=r"12 x 10 pixels, .* 8 x 8: give a size"):
        load_data("folder", tmp_path)
    train, test = load_data("folder", tmp_path, size=6)
    assert train.images.shape == (8, 6, 6, 3)
    assert test.images.shape == (4, 6, 6, 3)
    (tmp_path / "test" / "owl").mkdir()
    with pytest.raises(InputError, match="'owl' is in only one of train and test"):
        load_data("folder", tmp_path, size=6)


def test_all_grey_is_one_channel(tmp_path):
    for name in "ab":
        write(tmp_path / name, 5, mode="L")
    assert load_data("folder", tmp_path)[0].images.shape[3] == 1


def test_single_missing_and_corrupt_pictures(tmp_path):
    write(tmp_path / "cat", 5)
    write(tmp_path / "dog", 1)
    with pytest.raises(InputError, match="only one image"):
        load_data("folder", tmp_path)
    (tmp_path / "dog" / "RGB0.png").unlink()
    with pytest.raises(InputError, match="dog holds no pictures"):
        load_data("folder", tmp_path)
    for content in (b"", b"\x89PNG\r\n\x1a\nnothing"):
        (tmp_path / "dog" / "bad.png").write_bytes(content)
        with pytest.raises(InputError, match=r"bad.png is no readable picture"):
            load_data("folder", tmp_path)
    with pytest.raises(InputError, match="cannot read"):
        load_data("folder", tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no folders"):
        load_data("folder", tmp_path / "empty")


def save(path: Path, labels: list[int], size: int = 4, classes: tuple[str, ...] = ("a", "b")) -> None:
    images = np.zeros((len(labels), size, size, 1), np.uint8)
    np.savez(path, images=images, labels=np.array(labels), classes=np.array(classes))


def test_archives(tmp_path):
    save(tmp_path / "train.npz", [0, 1] * 5)
    save(tmp_path / "test.npz", [0, 1])
    assert [len(part) for part in load_data("npz", tmp_path)] == [10, 2]
    assert [len(part) for part in load_data("npz", tmp_path / "train.npz")] == [8, 2]
    save(tmp_path / "test.npz", [0, 1], size=5)
    with pytest.raises(InputError, match="test images"):
        load_data("npz", tmp_path)
    save(tmp_path / "test.npz", [0, 1], classes=("a", "c"))
    with pytest.raises(InputError, match="name other classes"):
        load_data("npz", tmp_path)
    save(tmp_path / "train.npz", [0, 0, 1])
    save(tmp_path / "test.npz", [0, 1])
    with pytest.raises(InputError, match="only one training image of class b"):
        load_data("npz", tmp_path)


def test_unknown_forms_and_missing_folders():
    with pytest.raises(InputError, match="no images 'mnist'"):
        load_data("mnist")
    with pytest.raises(InputError, match="no folder for the images of 'cifar10'"):
        load_data("cifar10")
