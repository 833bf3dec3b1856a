"""Files of images that claim more than there is."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pocketstep_device import cli
from pocketstep_device.errors import InputError
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
        read_images(path)


def test_a_shell_says_that_memory_ran_out(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(options: object) -> None:
        raise MemoryError

    monkeypatch.setattr(cli, "_open", refuse)
    assert cli.main(["status", "x.bundle"]) == 1
    assert "out of memory; what was saved is as it was" in capsys.readouterr().err
