"""Writes what the Kotlin tests compare themselves with: Python's own verdicts, states and predictions.

    python tests/android/fixtures.py BUNDLE OUT

The corpus of bad files is that of ``tests/device``: whatever is added there is asked of Kotlin too.
"""

from __future__ import annotations

import json
import shutil
import stat
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

DEVICE_TESTS = Path(__file__).parents[1] / "device"
sys.path.insert(0, str(DEVICE_TESTS))

import fakes  # noqa: E402
import packs  # noqa: E402
import test_manifest  # noqa: E402
import test_tensors  # noqa: E402

from pocketstep_device.bundle import Bundle  # noqa: E402
from pocketstep_device.bundle_writer import zip_bundle  # noqa: E402
from pocketstep_device.errors import BundleError, PocketstepError, StateError  # noqa: E402
from pocketstep_device.manifest import Manifest  # noqa: E402
from pocketstep_device.state import StateStore  # noqa: E402
from pocketstep_device.target_pack import TargetPack  # noqa: E402
from pocketstep_device.tensors import read_tensors, write_tensors  # noqa: E402


def main() -> None:
    """Writes all of it, anew."""
    bundle, out = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    cases = [*manifests(out / "manifests"), *tensor_files(out / "tensors"), *bundles(out / "bundles"), *states(out)]
    cases += target_packs(out / "packs", Bundle.open(out / "bundles" / "good"))
    (out / "corpus.json").write_text(json.dumps(cases, indent=1))
    from exchange import write_exchange
    from variants import write_variant

    write_variant(bundle, out / "device.bundle", golden=True)
    write_exchange(out / "device.bundle", out / "exchange")
    print(f"{len(cases)} cases in {out}")


def verdict(kind: str, path: Path, run: Any) -> dict[str, Any]:
    """What Python says of one file: the class of its error and the message, or neither."""
    try:
        run()
    except PocketstepError as error:
        known = BundleError if isinstance(error, BundleError) else StateError if isinstance(error, StateError) else None
        return {"kind": kind, "path": str(path), "error": (known or type(error)).__name__, "message": str(error)}
    return {"kind": kind, "path": str(path), "error": None, "message": ""}


def manifests(folder: Path) -> Iterator[dict[str, Any]]:
    """Every wrong field of the manifest's tests, every field poisoned or missing, and texts that are no manifest."""
    folder.mkdir()
    documents: list[bytes] = [fakes.fake_manifest_bytes(), Manifest.parse(fakes.fake_manifest_bytes()).to_json()]
    documents += [b"", b"[]", b"{}", b'{"format": "zip"}', b"{" * 100_000, b'{"a": 1, "a": 2}', b"\xef\xbb\xbf{}"]
    documents += [json.dumps(test_manifest.changed(path, value)).encode() for path, value, _ in test_manifest.WRONG]
    paths = [test_manifest.PATHS, *(paths for paths, _ in test_manifest.WRONG_PATHS)]
    documents += [json.dumps(test_manifest.with_paths(value)).encode() for value in paths]
    for path in test_manifest.places(test_manifest.GOOD)[1:]:
        for edit in (poison, lambda place, key: place.pop(key)):
            documents.append(json.dumps(test_manifest.edited(path, edit)).encode())
    for path in ("", "/a", "a/", "..", "a/../b", "a\\b", "é", "a\n", "a" * 256, "a'b", 'a"b', "\u200b", "☕", "..a"):
        documents.append(json.dumps(test_manifest.changed_files(path)).encode())
    for text in (b"NaN", b"Infinity", b"1e999", b"-0", b"01", b"1.", b"0.01e-2", b"1e5", str(2**70).encode()):
        documents.append(fakes.fake_manifest_bytes().replace(b"0.01", text))
    documents.append(json.dumps({"format": "pocketstep-bundle", "version": 2}).encode())
    documents.append(json.dumps(test_manifest.changed("task/classes", ["tasse", "青いマグ", "\ud83d\ude00"])).encode())
    for index, document in enumerate(documents):
        path = folder / f"{index:03d}.json"
        path.write_bytes(document)
        yield verdict("manifest", path, lambda: Manifest.parse(path.read_bytes()))  # noqa: B023 - run at once


def poison(place: Any, key: Any) -> None:
    """Puts what belongs nowhere."""
    place[key] = {"poison": [None]}


def tensor_files(folder: Path) -> Iterator[dict[str, Any]]:
    """Good files of every type, and all the malformed ones."""
    folder.mkdir()
    good = {
        "plain": write_tensors({"a": np.ones(3, np.float32), "b": np.ones((2, 2), np.int8)}, {"k": "v", "é": '"\\\n'}),
        "types": write_tensors(
            {str(t): np.zeros((2, 1), t) for t in ("f8", "f4", "f2", "i8", "i4", "i1", "u1", "?")}, {}
        ),
        "empty": write_tensors({"none": np.zeros((0, 5), np.float32), "scalar": np.float32(2.5).reshape(())}, {}),
        "names": write_tensors({"\uffff": np.zeros(1, np.int8), "\U0001f600": np.ones(1, np.int8)}, {"😀": "\x7f\x01"}),
    }
    for name, data in {**good, **test_tensors.MALFORMED}.items():
        path = folder / f"{name.replace(' ', '-')}.safetensors"
        path.write_bytes(data)
        yield verdict("tensors", path, lambda: read_tensors(path.read_bytes(), str(path), error=BundleError))  # noqa: B023


def bundles(folder: Path) -> Iterator[dict[str, Any]]:
    """Folders and zips, whole, cut, changed, linked, with more and with less in them."""
    folder.mkdir()
    good = fakes.fake_bundle(folder / "good").path
    zip_bundle(good, folder / "good.zip")
    for name in ("manifest.json", "manifest.sha256", "program.tflite", "state.safetensors", "extra/labels.txt"):
        content = (good / name).read_bytes()
        flipped = bytes([content[0] ^ 1]) + content[1:]
        label = name.replace("/", "-")
        for what, data in {"cut": content[:-1], "flipped": flipped, "longer": content + b"\n", "empty": b""}.items():
            (copy(good, folder / f"{label}-{what}") / name).write_bytes(data)
        (copy(good, folder / f"{label}-missing") / name).unlink()
        linked = copy(good, folder / f"{label}-linked")
        (linked / name).rename(linked / "elsewhere")
        (linked / name).symlink_to(linked / "elsewhere")
    (folder / "nothing").mkdir()
    (folder / "text").write_text("no zip")
    zips(folder)
    for path in [*sorted(folder.iterdir()), folder / "gone"]:
        yield verdict("bundle", path, lambda: Bundle.open(path))  # noqa: B023


def copy(folder: Path, target: Path) -> Path:
    """A copy to be damaged."""
    shutil.copytree(folder, target)
    return target


def zips(folder: Path) -> None:
    """Zips that hold what they must not."""
    good = folder / "good.zip"

    def rezip(name: str, edit: Any) -> None:
        with zipfile.ZipFile(good) as old, zipfile.ZipFile(folder / name, "w") as new:
            for info in old.infolist():
                entry = edit(info, old.read(info))
                if entry is not None:
                    new.writestr(*entry)

    def deflated(info: zipfile.ZipInfo, data: bytes) -> Any:
        info.compress_type = zipfile.ZIP_DEFLATED
        return info, data

    def link(info: zipfile.ZipInfo, data: bytes) -> Any:
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        return info, data

    labels = "extra/labels.txt"
    rezip("deflated.zip", deflated)
    rezip("links.zip", link)
    rezip("changed.zip", lambda i, d: (i, d.replace(b"red", b"rad") if i.filename == labels else d))
    rezip("longer.zip", lambda i, d: (i, d + b"\n" if i.filename == labels else d))
    rezip("without.zip", lambda i, d: None if i.filename == "program.tflite" else (i, d))
    for index, name in enumerate(("more.txt", "folder/", "program.tflite", "../up", "/abs", "manifest.json")):
        target = folder / f"more-{index}.zip"
        shutil.copyfile(good, target)
        with zipfile.ZipFile(target, "a") as archive:
            archive.writestr(name, archive.read("manifest.json") if name == "manifest.json" else b"")
    data = good.read_bytes()
    (folder / "commented.zip").write_bytes(data)
    with zipfile.ZipFile(folder / "commented.zip", "a") as archive:
        archive.comment = b"a comment"
    (folder / "prefixed.zip").write_bytes(b"#!/bin/sh\n" + data)
    for length in np.linspace(0, len(data) - 1, 12).astype(int).tolist():
        (folder / f"cut-{length}.zip").write_bytes(data[:length])


def states(out: Path) -> Iterator[dict[str, Any]]:
    """Folders of snapshots: good, damaged, renamed, of another bundle, of a newer format."""
    from test_state import rewrite

    folder, base = out / "states", out / "states" / "good"
    folder.mkdir()
    store = StateStore(base, "b" * 64)
    info = {
        "value": 1,
        "text": "é\U0001f600\x7f",
        "numbers": [1, 0.1, 1e-7, 1e22, -2.5e-5, 123456789.125, 1e16, 5e-324],
    }
    for version in (1, 2):
        tensors = {"head": np.full((2, 3), version, np.float32), "count": np.array([version], np.int64)}
        store.save(tensors, {**info, "value": version})
    newest = "snapshot-000002.safetensors"
    content = (base / newest).read_bytes()
    for what, data in {"cut": content[:-1], "empty": b"", "flipped": content[:-1] + b"\x7f"}.items():
        (copy(base, folder / what) / newest).write_bytes(data)
    (copy(base, folder / "renamed") / newest).rename(folder / "renamed" / "snapshot-000009.safetensors")
    for what, change in {
        "newer": {"version": "2"},
        "other-bundle": {"bundle": "c" * 64},
        "other-format": {"format": "x"},
        "no-version": {"version": "one"},
        "list-info": {"info": "[]"},
        "broken-info": {"info": "{"},
    }.items():
        rewrite(copy(base, folder / what) / newest, **change)
    all_bad = copy(base, folder / "all-bad")
    for path in all_bad.iterdir():
        path.write_bytes(b"")
    for path in sorted(folder.iterdir()):
        case = verdict("state", path, lambda: StateStore(path, "b" * 64).load())  # noqa: B023
        if case["error"] is None:
            loaded = StateStore(path, "b" * 64).load()
            case["version"] = loaded.version if loaded else 0
        yield case


def target_packs(folder: Path, bundle: Bundle) -> Iterator[dict[str, Any]]:
    """A good one, and all the malformed ones."""
    folder.mkdir()
    for name, data in {"good": packs.good(bundle.digest), **packs.malformed(bundle.digest)}.items():
        path = folder / f"{name.replace(' ', '-')}.pack"
        path.write_bytes(data)
        yield verdict("pack", path, lambda: TargetPack.read(path, bundle))  # noqa: B023


if __name__ == "__main__":
    main()
