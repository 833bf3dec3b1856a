"""What ``scripts/android`` does with bytes of its own: smaller bundles, ELF segments, places in an APK."""

from __future__ import annotations

import struct
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from pocketstep_device.bundle import Bundle
from pocketstep_device.bundle_writer import write_bundle
from pocketstep_device.errors import BundleError, InputError

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
sys.path.insert(0, str(ROOT / "tests" / "device"))

import fakes  # noqa: E402
from androidlib import apk  # noqa: E402
from androidlib.trim_bundle import trim  # noqa: E402


def full_bundle(folder: Path) -> Bundle:
    """Programs of three runtimes, one of them a folder, and a golden trace."""
    manifest: dict[str, Any] = fakes.fake_manifest()
    entry = manifest["runtimes"]["litert"]
    manifest["runtimes"] |= {
        "executorch": {**entry, "file": "program.pte"},
        "coreml": {**entry, "file": "program.mlpackage"},
    }
    more = {"program.pte": b"e", "program.mlpackage/Manifest.json": b"{}", "golden.safetensors": b"g"}
    return write_bundle(folder, manifest, {**fakes.fake_files(), **more})


def test_a_bundle_for_one_runtime_is_a_bundle(tmp_path: Path) -> None:
    full = full_bundle(tmp_path / "full.bundle")
    small = trim(full.path, tmp_path / "small.bundle", "litert")
    assert set(small.manifest.files) == set(fakes.fake_files())
    assert list(small.manifest.runtimes) == ["litert"]
    assert small.digest != full.digest
    assert small.manifest.state == full.manifest.state
    assert trim(full.path, small.path, "litert").digest == small.digest  # over an older one


def test_what_cannot_be_trimmed_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    bundle = fakes.fake_bundle(tmp_path / "fake.bundle")
    with pytest.raises(InputError, match="--runtime executorch"):
        trim(bundle.path, tmp_path / "out", "executorch")
    (bundle.path / "program.tflite").write_bytes(b"cut")
    with pytest.raises(BundleError, match=r"program\.tflite"):
        trim(bundle.path, tmp_path / "out", "litert")
    assert not (tmp_path / "out").exists()


def test_segments_of_an_elf_file() -> None:
    header = bytearray(64)
    struct.pack_into("<Q", header, 32, 64)
    struct.pack_into("<HH", header, 54, 56, 3)
    rows = [(6, 8), (1, 0x4000), (1, 0x10000)]  # a PT_PHDR, and two that are loaded
    table = b"".join(struct.pack("<IIQQQQQQ", kind, 0, 0, 0, 0, 0, 0, align) for kind, align in rows)
    assert apk.segment_alignment(bytes(header) + table) == 0x4000


def test_places_of_stored_entries(tmp_path: Path) -> None:
    path = tmp_path / "an.apk"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("packed.txt", b"p" * 99, zipfile.ZIP_DEFLATED)
        archive.writestr("lib/x86_64/a.so", b"native")
    ((name, place),) = apk.stored(path).items()
    assert name == "lib/x86_64/a.so"
    assert path.read_bytes()[place : place + 6] == b"native"
