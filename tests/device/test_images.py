"""Images from files: pictures in folders, and files that claim more than there is."""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pocketstep_device import cli
from pocketstep_device.errors import InputError, MissingToolError
from pocketstep_device.images import read_images


def claiming(shape: tuple[int, ...]) -> bytes:
    """A .npy file of such a header, and little behind it."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return buffer.getvalue() + bytes(100)


@pytest.mark.parametrize("shape", [(2**46, 16, 16, 1), (2**60,), (3, 2**62)])
@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_a_file_that_claims_terabytes(tmp_path: Path, shape: tuple[int, ...], kind: str) -> None:
    path = tmp_path / f"x.{kind}"
    if kind == "npy":
        path.write_bytes(claiming(shape))
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("images.npy", claiming(shape))
    with pytest.raises(InputError, match=r"does not fit into memory|cannot be read"):
        read_images(path, (16, 16, 1))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name, pixels in {"cup/b.png": np.full((40, 60, 3), 200), "hat/a.jpg": np.full((16, 16), 10)}.items():
        (tmp_path / name).parent.mkdir()
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / name)
    (tmp_path / "hat" / "notes.txt").write_text("no picture")
    return tmp_path


def test_pictures_are_brought_to_the_bundles_size_and_their_folders_are_classes(photos: Path) -> None:
    found = read_images(photos, (16, 16, 1))
    assert found.images.shape == (2, 16, 16, 1)
    assert [int(image.mean()) for image in found.images] == [200, 10]
    assert (found.names, found.labels) == (["cup/b.png", "hat/a.jpg"], ["cup", "hat"])


def test_pictures_of_no_class_of_their_own(photos: Path) -> None:
    assert read_images(photos / "cup", (16, 16, 3)).labels is None
    alone = read_images(photos / "hat" / "a.jpg", (16, 16, 3))
    assert (alone.images.shape, alone.names, alone.labels) == ((1, 16, 16, 3), ["a.jpg"], None)
    (photos / "c.png").write_bytes((photos / "cup" / "b.png").read_bytes())
    assert read_images(photos, (16, 16, 3)).labels is None


def test_pictures_without_pillow(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingToolError, match=r"pip install 'pocketstep-device\[pictures\]'"):
        read_images(photos, (16, 16, 1))


def test_a_shell_says_that_memory_ran_out(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(options: object) -> None:
        raise MemoryError

    monkeypatch.setattr(cli, "_open", refuse)
    assert cli.main(["status", "x.bundle"]) == 1
    assert "out of memory; what was saved is as it was" in capsys.readouterr().err
