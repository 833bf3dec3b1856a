from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import STATE, fake_bundle, fake_files, fake_manifest

from pocketstep_device.bundle import Bundle
from pocketstep_device.bundle_writer import write_bundle, zip_bundle
from pocketstep_device.errors import BundleError
from pocketstep_device.manifest import Manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fake_bundle(tmp_path / "mugs.bundle").path


@pytest.fixture
def zipped(folder: Path, tmp_path: Path) -> Path:
    zip_bundle(folder, tmp_path / "mugs.zip")
    return tmp_path / "mugs.zip"


def listing(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def rezip(source: Path, target: Path, edit: Callable[[zipfile.ZipInfo, bytes], Any]) -> None:
    """Copies a zip; ``edit`` returns the entry to write, as (info, data), or None to drop it."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            if (entry := edit(info, old.read(info))) is not None:
                new.writestr(*entry)


def test_opens_a_folder(folder: Path) -> None:
    bundle = Bundle.open(str(folder))
    assert listing(folder) == {*fake_files(), "manifest.json", "manifest.sha256"}
    assert bundle.digest == hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    assert (folder / "manifest.sha256").read_text() == bundle.digest + "\n"
    assert bundle.manifest == Manifest.parse((folder / "manifest.json").read_bytes())
    for name, content in fake_files().items():
        assert bundle.read(name) == content
        assert bundle.file_path(name) == folder / name


def test_opens_a_zip(zipped: Path, folder: Path) -> None:
    bundle = Bundle.open(zipped)
    assert bundle.digest == Bundle.open(folder).digest
    for name, content in fake_files().items():
        assert bundle.read(name) == content
        assert bundle.file_path(name) is None
    with zipfile.ZipFile(zipped) as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}


def test_tensors(folder: Path, zipped: Path) -> None:
    for path in (folder, zipped):
        tensors, metadata = Bundle.open(path).tensors("state.safetensors")
        assert {name: array.shape for name, array in tensors.items()} == STATE
        assert metadata == {"kind": "state"}
        with pytest.raises(BundleError, match="can't be read"):
            Bundle.open(path).tensors("program.tflite")


def test_unlisted_file(folder: Path) -> None:
    (folder / "note.txt").write_text("hello")
    bundle = Bundle.open(folder)
    for use in (bundle.read, bundle.file_path, bundle.tensors):
        for name in ("note.txt", "../mugs.zip", "manifest.json", "extr"):
            with pytest.raises(BundleError, match="has no file"):
                use(name)


def test_every_changed_byte_is_noticed(folder: Path) -> None:
    for path in (path for path in sorted(folder.rglob("*")) if path.is_file()):
        good = path.read_bytes()
        for position in {*np.linspace(0, len(good) - 1, 25).astype(int).tolist()}:
            bad = bytearray(good)
            bad[position] ^= 1 << (position % 8)
            path.write_bytes(bad)
            with pytest.raises(BundleError, match=path.name):
                Bundle.open(folder)
        for cut in (good[:-1], good[: len(good) // 2], b"", good + b"\n"):
            path.write_bytes(cut)
            with pytest.raises(BundleError, match=path.name):
                Bundle.open(folder)
        path.write_bytes(good)
    Bundle.open(folder)


def test_every_missing_file_is_noticed(folder: Path) -> None:
    for name in sorted(listing(folder)):
        good = (folder / name).read_bytes()
        (folder / name).unlink()
        with pytest.raises(BundleError, match=name):
            Bundle.open(folder)
        (folder / name).write_bytes(good)


def test_change_after_opening_is_noticed(folder: Path, zipped: Path) -> None:
    bundle, packed = Bundle.open(folder), Bundle.open(zipped)
    program = folder / "program.tflite"
    program.write_bytes(program.read_bytes()[::-1])
    with pytest.raises(BundleError, match="changed bytes"):
        bundle.read("program.tflite")
    zipped.write_bytes(zipped.read_bytes()[:-100])
    with pytest.raises(BundleError, match="no intact zip"):
        packed.read("program.tflite")


def test_nothing_there_or_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_bytes(b"no zip")
    for name, reason in (("gone", "no bundle at"), ("empty", "no manifest.json"), ("file", "no intact zip")):
        with pytest.raises(BundleError, match=reason):
            Bundle.open(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("a", b"b")
    with pytest.raises(BundleError, match=r"has no manifest\.json"):
        Bundle.open(tmp_path / "other.zip")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BundleError, match="neither a folder nor a plain file"):
        Bundle.open(tmp_path / "pipe")


def test_newer_version(folder: Path) -> None:
    data = json.dumps({"format": "pocketstep-bundle", "version": 2}).encode()
    (folder / "manifest.json").write_bytes(data)
    (folder / "manifest.sha256").write_text(hashlib.sha256(data).hexdigest() + "\n")
    with pytest.raises(BundleError, match="made by a newer pocketstep"):
        Bundle.open(folder)


@pytest.mark.parametrize("name", ["program.tflite", "extra", "manifest.json", "manifest.sha256"])
def test_links_are_refused(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="is a link"):
        Bundle.open(folder)


def test_folders_and_pipes_in_the_place_of_files_are_refused(folder: Path) -> None:
    program = folder / "program.tflite"
    program.unlink()
    program.mkdir()
    with pytest.raises(BundleError, match="no plain file"):
        Bundle.open(folder)
    program.rmdir()
    os.mkfifo(program)
    with pytest.raises(BundleError, match="no plain file"):
        Bundle.open(folder)


def test_bundle_may_be_reached_through_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(folder)
    assert Bundle.open(tmp_path / "current").read("extra/labels.txt") == fake_files()["extra/labels.txt"]


def test_program_in_a_folder(tmp_path: Path) -> None:
    manifest = fake_manifest()
    manifest["runtimes"]["coreml"] = {"file": "p.mlpackage", "versions": {}, "delegated": {}}
    files = {**fake_files(), "p.mlpackage/Manifest.json": b"{}", "p.mlpackage/Data/w.bin": b"123"}
    bundle = write_bundle(tmp_path / "b", manifest, files)
    assert bundle.file_path("p.mlpackage") == tmp_path / "b" / "p.mlpackage"
    (tmp_path / "b" / "p.mlpackage" / "more.bin").write_bytes(b"")
    with pytest.raises(BundleError, match="does not list"):
        bundle.file_path("p.mlpackage")


def test_zip_variants(zipped: Path, tmp_path: Path) -> None:
    def deflated(info: zipfile.ZipInfo, data: bytes) -> Any:
        info.compress_type = zipfile.ZIP_DEFLATED
        return info, data

    def link(info: zipfile.ZipInfo, data: bytes) -> Any:
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        return info, data

    def changed(info: zipfile.ZipInfo, data: bytes) -> Any:
        return info, data.replace(b"red", b"rad") if info.filename == "extra/labels.txt" else data

    def longer(info: zipfile.ZipInfo, data: bytes) -> Any:
        return info.filename, data + b"\n" if info.filename == "extra/labels.txt" else data

    def without(info: zipfile.ZipInfo, data: bytes) -> Any:
        return None if info.filename == "program.tflite" else (info, data)

    variants = {deflated: "is compressed", link: "no plain file", changed: "changed bytes"}
    variants |= {longer: "was cut or changed", without: "exactly the manifest's files"}
    for edit, reason in variants.items():
        rezip(zipped, tmp_path / "bad.zip", edit)
        with pytest.raises(BundleError, match=reason):
            Bundle.open(tmp_path / "bad.zip")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["more.txt", "folder/", "program.tflite", "../up", "/abs", "manifest.json"])
def test_zip_with_another_entry(zipped: Path, name: str) -> None:
    with zipfile.ZipFile(zipped, "a") as archive:
        content = archive.read("manifest.json") if name == "manifest.json" else b""
        archive.writestr(name, content)
    with pytest.raises(BundleError, match="exactly the manifest's files"):
        Bundle.open(zipped)


def test_cut_or_changed_zip_never_gives_other_content(zipped: Path) -> None:
    good, files = zipped.read_bytes(), fake_files()
    for position in np.linspace(0, len(good) - 1, 400).astype(int).tolist():
        bad = bytearray(good)
        bad[position] ^= 0xFF
        zipped.write_bytes(bad)
        try:
            bundle = Bundle.open(zipped)
        except BundleError:
            continue
        assert {name: bundle.read(name) for name in bundle.manifest.files} == files
    for length in np.linspace(0, len(good) - 1, 50).astype(int).tolist():
        zipped.write_bytes(good[:length])
        with pytest.raises(BundleError):
            Bundle.open(zipped)


def test_a_zip_whose_directory_would_take_long_to_read(zipped: Path, tmp_path: Path) -> None:
    """Refused by its last bytes, before anything parses the directory."""
    good = zipped.read_bytes()
    zipped.write_bytes(good[:-2] + b"\x05\0hello")
    with pytest.raises(BundleError, match="has a comment"):
        Bundle.open(zipped)
    end = bytearray(good[-22:])
    for field, value in ((8, 5000), (10, 5000), (12, 2**31)):
        changed = bytearray(end)
        changed[field : field + (4 if field == 12 else 2)] = value.to_bytes(4 if field == 12 else 2, "little")
        if field != 12:
            changed[8:12] = value.to_bytes(2, "little") * 2
        zipped.write_bytes(good[:-22] + bytes(changed))
        with pytest.raises(BundleError, match="at most 256 and 131072 are read"):
            Bundle.open(zipped)
    zipped.write_bytes(good[:-22] + b"PK\6\7" + bytes(16) + bytes(end))
    with pytest.raises(BundleError, match="64-bit kind"):
        Bundle.open(zipped)
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        for index in range(300):
            archive.writestr(str(index), b"")
    with pytest.raises(BundleError, match="claims 300 files"):
        Bundle.open(tmp_path / "many.zip")


def test_zip_is_deterministic_and_leaves_unlisted_files_out(folder: Path, zipped: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "unlisted").write_text("x")
    zip_bundle(tmp_path / "copy", tmp_path / "copy.zip")
    assert (tmp_path / "copy.zip").read_bytes() == zipped.read_bytes()
    zip_bundle(zipped, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == zipped.read_bytes()


def test_damaged_bundle_is_not_zipped(folder: Path, tmp_path: Path) -> None:
    (folder / "program.tflite").write_bytes(b"")
    with pytest.raises(BundleError):
        zip_bundle(folder, tmp_path / "new.zip")
    with pytest.raises(BundleError, match="can't be written"):
        zip_bundle(fake_bundle(tmp_path / "good").path, tmp_path / "no" / "new.zip")
    assert {path.name for path in tmp_path.iterdir()} == {"mugs.bundle", "good"}


def test_writes_from_paths_and_replaces_a_bundle(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "program").write_bytes(b"new program")
    bundle = write_bundle(folder, fake_manifest(), {"program.tflite": tmp_path / "program"})
    assert bundle.read("program.tflite") == b"new program"
    assert listing(folder) == {"program.tflite", "manifest.json", "manifest.sha256"}
    assert {path.name for path in tmp_path.iterdir()} == {"program", "mugs.bundle"}


def test_empty_folder_is_replaced_and_others_are_not(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    fake_bundle(tmp_path / "empty")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "manifest.json").write_text('{"format": "photos"}')
    (tmp_path / "link").symlink_to(folder)
    for name in ("file", "photos", "link"):
        with pytest.raises(BundleError, match="is no bundle, so it is not replaced"):
            fake_bundle(tmp_path / name)
    assert (tmp_path / "photos" / "manifest.json").exists()
    Bundle.open(folder)


def test_failed_write_leaves_the_old_bundle(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = Bundle.open(folder).digest
    with pytest.raises(BundleError, match=r"runtimes\.litert\.file"):
        write_bundle(folder, fake_manifest(), {"other": b""})
    with pytest.raises(BundleError, match=r"named '\.\./up'"):
        write_bundle(folder, fake_manifest(), {**fake_files(), "../up": b""})
    with pytest.raises(BundleError, match="can't be written"):
        write_bundle(folder, fake_manifest(), {**fake_files(), "gone": tmp_path / "gone"})
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if target == folder and self.suffix == ".tmp":
            raise OSError(errno.EIO, "no luck")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(BundleError, match="no luck"):
        fake_bundle(folder)
    assert Bundle.open(folder).digest == old
    assert [path.name for path in tmp_path.iterdir()] == ["mugs.bundle"]


def test_link_in_a_program_folder_is_refused(tmp_path: Path) -> None:
    manifest = fake_manifest()
    manifest["runtimes"]["coreml"] = {"file": "p.mlpackage", "versions": {}, "delegated": {}}
    bundle = write_bundle(tmp_path / "b", manifest, {**fake_files(), "p.mlpackage/Manifest.json": b"{}"})
    (tmp_path / "b" / "p.mlpackage" / "linked").symlink_to(tmp_path)
    with pytest.raises(BundleError, match="does not list"):
        bundle.file_path("p.mlpackage")
