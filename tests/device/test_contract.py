"""Bundles whose digests are right and whose parts are not: errors of ours, before anything is computed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy

from pocketstep_device.bundle import Bundle
from pocketstep_device.bundle_writer import write_bundle
from pocketstep_device.errors import BundleError
from pocketstep_device.learner import Learner
from pocketstep_device.tensors import read_tensors, write_tensors

Edit = Callable[[dict[str, Any]], object]


def named(tensors: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(tensor for tensor in tensors if tensor["name"] == name)


def refused(target: Path, manifest: dict[str, Any], files: dict[str, bytes], match: str) -> None:
    path = write_bundle(target, manifest, files).path
    with pytest.raises(BundleError, match=match):
        Learner.open(path, target.with_name("state"))
    assert not list(target.with_name("state").glob("snapshot*"))


MANIFESTS: dict[str, tuple[Edit, str]] = {
    "no classify": (lambda m: m["signatures"].pop("classify"), "no signature 'classify'"),
    "no step": (lambda m: m["signatures"].pop("step"), "no signature 'step'"),
    "no images": (lambda m: named(m["signatures"]["encode"]["inputs"], "images").update(name="x"), "lack 'images'"),
    "no logits": (lambda m: named(m["signatures"]["classify"]["outputs"], "logits").update(name="x"), "lack 'logits'"),
    "labels": (
        lambda m: named(m["signatures"]["step"]["inputs"], "labels").update(shape=[toy.BATCH, 7]),
        r"'labels' of shape \(16, 7\), not \(16, 6\)",
    ),
    "another batch": (lambda m: m["signatures"]["encode"].update(batch=17), r"not \(17, 4, 4, 1\)"),
    "features": (
        lambda m: named(m["signatures"]["classify"]["outputs"], "features").update(shape=[]),
        "'features' that are no batch",
    ),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_signatures_that_a_learner_cannot_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    toy.install(monkeypatch)
    manifest = toy.toy_manifest(6, toy.CLASSES)
    edit, match = MANIFESTS[name]
    edit(manifest)
    refused(tmp_path / "bad.bundle", manifest, toy.toy_files(), match)


@pytest.mark.parametrize(
    ("phase", "match"),
    [
        (
            {"kind": "train", "rows": "all", "epochs": 1e6, "learning_rate": 0.1},
            "epochs must be a number from 0 to",
        ),
        ({"kind": "train", "rows": "all", "epochs": True, "learning_rate": 0.1}, "epochs must be a number"),
        ({"kind": "train", "rows": "all", "epochs": 1}, "learning_rate is missing"),
        (
            {"kind": "train", "rows": "all", "epochs": 1, "learning_rate": 0.1, "momentum": 7},
            "momentum must be",
        ),
        ({"kind": "train", "rows": "all", "epochs": 1, "learning_rate": "fast"}, "learning_rate must be a number"),
    ],
)
def test_schedules_that_would_not_end(tmp_path: Path, phase: dict[str, Any], match: str) -> None:
    manifest = toy.toy_manifest(6, toy.CLASSES)
    manifest["schedules"]["auto"]["phases"] = [phase]
    with pytest.raises(BundleError, match=match):
        write_bundle(tmp_path / "bad.bundle", manifest, toy.toy_files())


def test_an_input_that_no_hyper_parameter_gives(tmp_path: Path) -> None:
    manifest = toy.toy_manifest(6, toy.CLASSES)
    del manifest["hyper"]["shrinkage"]
    with pytest.raises(BundleError, match="'shrinkage', which is not in hyper"):
        write_bundle(tmp_path / "bad.bundle", manifest, toy.toy_files())


TENSORS: dict[str, tuple[str, Callable[[dict[str, Any]], dict[str, Any]], str]] = {
    "another type": (
        "state",
        lambda t: {"head.bias": t["head.bias"].astype(np.float64)},
        "'head.bias' is missing",
    ),
    "another shape": ("state", lambda t: {"count": t["count"][:-1]}, "'count' is missing, too"),
    "one too many": ("state", lambda t: {"more": t["count"]}, "'more' is missing, too many"),
    "nothing learned": ("state", lambda t: {"class_mask": t["class_mask"] * 0}, "which of its classes are learned"),
    "a mask of halves": ("state", lambda t: {"class_mask": t["class_mask"] / 2}, "which of its classes are learned"),
    "labels as floats": ("replay", lambda t: {"labels": t["labels"].astype(np.float32)}, "'labels' .* is float32"),
    "labels out of range": ("replay", lambda t: {"labels": t["labels"] + 5}, "does not fit the manifest"),
    "other latents": ("replay", lambda t: {"latents": t["latents"][:, :1]}, "does not fit the manifest"),
    "fewer flags": ("replay", lambda t: {"held_back": t["held_back"][1:]}, "does not fit the manifest"),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_that_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    toy.install(monkeypatch)
    kind, edit, match = TENSORS[name]
    files, file = toy.toy_files(), f"{kind}.safetensors"
    tensors, _ = read_tensors(files[file], "test")
    files[file] = write_tensors({**tensors, **edit(tensors)})
    refused(tmp_path / "bad.bundle", toy.toy_manifest(6, toy.CLASSES), files, match)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    toy.install(monkeypatch)
    files = toy.toy_files()
    tensors, _ = read_tensors(files["state.safetensors"], "test")
    bad = {**tensors, "head.bias": np.full_like(tensors["head.bias"], value)}
    files["state.safetensors"] = write_tensors(bad, allow_nonfinite=True)
    refused(tmp_path / "bad.bundle", toy.toy_manifest(6, toy.CLASSES), files, "holds NaN or infinity")


def test_a_program_of_other_shapes_than_the_manifest_says(bundle_path: Path, tmp_path: Path) -> None:
    """A real program, and a manifest that halves the batch of everything: LiteRT is asked first, and then not fed."""
    opened = Bundle.open(bundle_path)
    manifest = json.loads(opened.manifest.to_json())
    del manifest["files"]
    for signature in manifest["signatures"].values():
        batch = signature["batch"]
        for tensor in [*signature["inputs"], *signature["outputs"]]:
            if batch > 1 and tensor["shape"][:1] == [batch] and tensor["source"] in ("batch", "result"):
                tensor["shape"][0] = batch // 2
        signature["batch"] = max(1, batch // 2)
    files = {name: opened.read(name) for name in opened.manifest.files}
    path = write_bundle(tmp_path / "bad.bundle", manifest, files).path
    with Learner.open(path, tmp_path / "state") as learner, pytest.raises(BundleError, match="LiteRT cannot run"):
        learner.classify(np.zeros((1, *opened.manifest.task.input.shape), np.uint8))
