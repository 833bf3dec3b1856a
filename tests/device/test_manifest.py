from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from fakes import fake_files, fake_manifest, fake_manifest_bytes

from pocketstep_device.errors import BundleError
from pocketstep_device.manifest import MAX_MANIFEST, Manifest, PathAxis
from pocketstep_device.manifest_checks import is_plain_path

GOOD = json.loads(fake_manifest_bytes())


def changed(path: str, value: Any) -> dict[str, Any]:
    """The good manifest with one field set; ``path`` has its keys and indices between slashes."""
    result = copy.deepcopy(GOOD)
    *parents, last = [int(part) if part.isdigit() else part for part in path.split("/")]
    place: Any = result
    for part in parents:
        place = place[part]
    place[last] = value
    return result


def parse(value: Any) -> Manifest:
    return Manifest.parse(json.dumps(value).encode())


def test_parses() -> None:
    manifest = parse(GOOD)
    assert manifest.task.classes == ("red mug", "green mug")
    assert manifest.task.input.shape == (8, 8, 3)
    assert manifest.signatures["step"].inputs[1].name == "head.weight"
    assert manifest.schedules["auto"].phases[1]["rows"] == ("new", "old")
    assert manifest.schedules["auto"].phases[1]["masked"] is True
    assert manifest.plan.parameters[0].group is None
    assert manifest.files.keys() == fake_files().keys()


def test_json_is_canonical() -> None:
    manifest = parse(GOOD)
    data = manifest.to_json()
    assert data.endswith(b"}\n")
    assert data == (json.dumps(GOOD, sort_keys=True, indent=1) + "\n").encode()
    assert Manifest.parse(data) == manifest
    assert Manifest.parse(data).to_json() == data


def test_names_in_any_script() -> None:
    data = parse(changed("task/classes", ["tasse bleue", "青いマグ", "☕️"])).to_json()
    assert "青いマグ" in data.decode("utf-8")


def test_newer_version_comes_before_everything_else() -> None:
    newer = {"format": "pocketstep-bundle", "version": 2, "something": "else"}
    with pytest.raises(BundleError, match="made by a newer pocketstep; update pocketstep-device or rebuild the bundle"):
        parse(newer)


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"format": "zip"}', b"{" * 100_000, b" " * (MAX_MANIFEST + 1)])
def test_no_manifest(data: bytes) -> None:
    with pytest.raises(BundleError):
        Manifest.parse(data)


WRONG = [
    ("version", 0, "version"),
    ("version", "1", "version"),
    ("version", True, "version"),
    ("name", "", "name"),
    ("name", "a\nb", "name"),
    ("producer", None, "producer"),
    ("producer", "x" * 5000, "producer"),
    ("task/classes", [], "task.classes"),
    ("task/classes", "ab", "task.classes"),
    ("task/classes", ["a", "a"], "task.classes"),
    ("task/classes", ["a", 1], "task.classes[1]"),
    ("task/classes", ["a", " "], "task.classes[1]"),
    ("task/classes", ["a", "b\x00"], "task.classes[1]"),
    ("task/classes", ["a", "b" * 201], "task.classes[1]"),
    ("task/slots", 1, "task.slots"),
    ("task/slots", 4.0, "task.slots"),
    ("task/slots", 100_001, "task.slots"),
    ("task/input", [], "task.input"),
    ("task/input/shape", [8, 8], "task.input.shape"),
    ("task/input/shape", [8, 0, 3], "task.input.shape"),
    ("task/input/shape", [8, 8, 1], "task.input.shape"),
    ("task/input/range", [255, 0], "task.input.range"),
    ("task/input/range", [0], "task.input.range"),
    ("task/input/colour", "blue", "task.input.colour"),
    ("task/input/mean", [0.5], "task.input.mean"),
    ("task/input/std", [1, 1, 0], "task.input.std"),
    ("latent/shape", [2, 2, 3, 1], "latent.shape"),
    ("latent/dtype", "int4", "latent.dtype"),
    ("plan/parameters/0/role", "thawed", "plan.parameters[0].role"),
    ("plan/parameters/0/trained", 0, "plan.parameters[0].trained"),
    ("plan/parameters/0/group", 1, "plan.parameters[0].group"),
    ("plan/parameters/0/shape", [1] * 6, "plan.parameters[0].shape"),
    ("plan/parameters/0/name", "head.weight", "plan.parameters"),
    ("signatures/step/batch", 0, "signatures.step.batch"),
    ("signatures/step/inputs/3/shape", [5], "signatures.step.inputs[3].shape"),
    ("signatures/step/inputs/3/shape", "4", "signatures.step.inputs[3].shape"),
    ("signatures/step/inputs/0/shape", [2**31 + 1], "signatures.step.inputs[0].shape"),
    ("signatures/step/inputs/0/shape", [2**16, 2**16], "signatures.step.inputs[0].shape"),
    ("signatures/step/inputs/0/shape", [-1, 2], "signatures.step.inputs[0].shape"),
    ("signatures/step/inputs/0/source", "cloud", "signatures.step.inputs[0].source"),
    ("signatures/step/inputs/0/dtype", "int8", "signatures.step.inputs[0].dtype"),
    ("signatures/step/inputs/0/name", "mask", "signatures.step.inputs"),
    ("signatures/step/inputs/1/name", "tail", "signatures.step.inputs[1].name"),
    ("signatures/step/outputs/0", 1, "signatures.step.outputs[0]"),
    ("state/0/name", "mask", "state"),
    ("state/0/kind", "other", "state[0].kind"),
    ("state/0/shape", [2**31, 2], "state[0].shape"),
    ("hyper/rate/default", 2, "hyper.rate"),
    ("hyper/rate/min", "0", "hyper.rate.min"),
    ("schedules/auto/phases/0", {}, "schedules.auto.phases[0].kind"),
    ("schedules/auto/phases/0/kind", 1, "schedules.auto.phases[0].kind"),
    ("schedules/auto/phases/0/deep", {"a": 1}, "schedules.auto.phases[0].deep"),
    ("schedules/auto/phases/0/deep", [["a"]], "schedules.auto.phases[0].deep"),
    ("schedules/auto/accept/max_old_loss", -1, "schedules.auto.accept.max_old_loss"),
    ("schedules/auto/accept/max_class_loss", -0.1, "schedules.auto.accept.max_class_loss"),
    ("cost/a", "b", "cost.a"),
    ("runtimes/litert/file", "other.tflite", "runtimes.litert.file"),
    ("runtimes/litert/versions", {"a": 1}, "runtimes.litert.versions.a"),
    ("files/a b", {"sha256": "0" * 64, "bytes": 1}, "files['a b']"),
    ("files/MANIFEST.json", {"sha256": "0" * 64, "bytes": 1}, "files['MANIFEST.json']"),
    ("files/Program.tflite", {"sha256": "0" * 64, "bytes": 1}, "files"),
    ("files/a", {"sha256": "0" * 63, "bytes": 1}, "files['a'].sha256"),
    ("files/a", {"sha256": "A" * 64, "bytes": 1}, "files['a'].sha256"),
    ("files/a", {"sha256": "0" * 64, "bytes": -1}, "files['a'].bytes"),
    ("files/a", {"sha256": "0" * 64, "bytes": 2**60}, "files['a'].bytes"),
    ("files/a", {"sha256": "0" * 64, "bytes": True}, "files.a.bytes"),
    ("more", 1, "more"),
    ("latent/more", 1, "latent.more"),
]


@pytest.mark.parametrize(("path", "value", "where"), WRONG)
def test_wrong_field_is_named(path: str, value: Any, where: str) -> None:
    with pytest.raises(BundleError) as caught:
        parse(changed(path, value))
    assert str(caught.value).startswith(f"The manifest's {where} ")


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if not isinstance(value, dict | list):
        return [path]
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return [path, *(place for key, item in items for place in places(item, (*path, key)))]


def edited(path: tuple[Any, ...], edit: Callable[[Any, Any], None]) -> Any:
    result = copy.deepcopy(GOOD)
    place = result
    for part in path[:-1]:
        place = place[part]
    edit(place, path[-1])
    return result


FREE = {"hyper", "schedules", "cost", "runtimes", "files", "signatures", "state"}


def test_every_fixed_field_is_required_and_typed() -> None:
    count = 0
    for path in places(GOOD)[1:]:

        def poison(place: Any, key: Any) -> None:
            place[key] = {"poison": [None]}

        with pytest.raises(BundleError):
            parse(edited(path, poison))
        if isinstance(path[-1], str) and (len(path) == 1 or path[0] not in FREE):
            with pytest.raises(BundleError, match=r"is missing|no bundle"):
                parse(edited(path, lambda place, key: place.pop(key)))
            count += 1
    assert count > 30


@pytest.mark.parametrize("number", [10**309, -(10**400)])
def test_whole_numbers_that_no_float_can_hold(number: int) -> None:
    for path in ("hyper/rate/max", "cost/step.forward_passes"):
        with pytest.raises(BundleError, match="must be a finite number"):
            parse(changed(path, number))


def test_nonfinite_numbers_are_refused() -> None:
    for text in (b"NaN", b"Infinity", b"1e999"):
        data = fake_manifest_bytes().replace(b"0.01", text)
        with pytest.raises(BundleError):
            Manifest.parse(data)


def test_program_may_be_a_folder() -> None:
    manifest = changed("runtimes/coreml", {"file": "program.mlpackage", "versions": {}, "delegated": {}})
    with pytest.raises(BundleError, match=r"runtimes\.coreml\.file"):
        parse(manifest)
    manifest["files"]["program.mlpackage/Manifest.json"] = {"sha256": "0" * 64, "bytes": 3}
    assert "coreml" in parse(manifest).runtimes
    manifest["files"]["program.mlpackage"] = {"sha256": "0" * 64, "bytes": 3}
    with pytest.raises(BundleError, match="lies in another file"):
        parse(manifest)


def with_paths(paths: Any) -> dict[str, Any]:
    """The good manifest with critical paths in a head that is trained."""
    manifest = changed("plan/paths", paths)
    manifest["state"][0]["kind"] = "parameter"
    return manifest


PATHS = [{"name": "head.weight", "axis": 1, "size": 1}]
WRONG_PATHS: list[tuple[Any, str]] = [
    ({}, "plan.paths"),
    ([*PATHS, *PATHS], "plan.paths[1]"),
    ([{**PATHS[0], "more": 1}], "plan.paths[0].more"),
    ([{"name": "head.weight", "axis": 1}], "plan.paths[0].size"),
    *(([{**PATHS[0], "name": name}], "plan.paths[0].name") for name in ("head.bias", "", "none", 1)),
    *(([{**PATHS[0], "axis": axis}], "plan.paths[0]") for axis in (-1, 0, 2, 2**40, 1.0, None)),
    *(([{**PATHS[0], "size": size}], "plan.paths[0]") for size in (0, -1, 2, 2**31, 2**62, "1", True)),
]


def test_paths_may_be_there_or_not() -> None:
    assert parse(GOOD).plan.paths == parse(with_paths([])).plan.paths == ()
    assert parse(with_paths(PATHS)).plan.paths == (PathAxis("head.weight", 1, 1),)


@pytest.mark.parametrize(("paths", "where"), WRONG_PATHS)
def test_wrong_paths_are_named(paths: Any, where: str) -> None:
    with pytest.raises(BundleError) as caught:
        parse(with_paths(paths))
    assert f"The manifest's {where}" in str(caught.value)


@pytest.mark.parametrize("path", ["a", "a.b-c_d", "a/b/c.d", "..a", ".hidden"])
def test_plain_paths(path: str) -> None:
    assert is_plain_path(path)


@pytest.mark.parametrize(
    "path",
    ["", "/a", "a/", "a//b", "..", "a/../b", "./a", "a\\b", "C:a", "a b", "é", "a\n", "a\x00", "a" * 256],
)
def test_other_paths(path: str) -> None:
    assert not is_plain_path(path)
    with pytest.raises(BundleError):
        parse(changed_files(path))


def changed_files(path: str) -> dict[str, Any]:
    manifest = fake_manifest()
    return {**manifest, "files": {**GOOD["files"], path: {"sha256": "0" * 64, "bytes": 1}}}
