"""What a manifest's types cannot say: bounds, and that its parts agree with one another."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from pocketstep_device.decoding import MAX_NAME, fail

if TYPE_CHECKING:
    from pocketstep_device.manifest import Hyper, Manifest, Schedule, Shape, Signature, Task, Tensor

MANIFEST_FILE = "manifest.json"
DIGEST_FILE = "manifest.sha256"
SIGNATURE_FILE = "signature.ed25519"
OWN_FILES = (MANIFEST_FILE, DIGEST_FILE, SIGNATURE_FILE)
"""What lies beside the files that a manifest lists."""
VERSION = 1
"""The newest format version that is understood."""

_MAX_RELEASE = 2**53
_MAX_SLOTS = 100_000
_MAX_BATCH = 65_536
_MAX_RANK = 5
_MAX_SIZE = 2**31
_MAX_PIXEL = 1e6
_MAX_FILE = 2**40
_MAX_PATH = 255
_PATH = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CONTROL = {"Cc", "Cs", "Zl", "Zp"}
_PHASE_NEEDS = {"train": ("rows", "epochs", "learning_rate")}
_PHASE_RANGES = {
    "epochs": (0.0, 1e4),
    "learning_rate": (0.0, 1e3),
    "max_steps": (0.0, 1e9),
    "checks": (0.0, 1e4),
    "freeze": (0.0, 1.0),
    "channels": (0.0, 1.0),
    "new_paths": (0.0, 100.0),
    "other_paths": (0.0, 100.0),
}
"""Numbers of a phase that are no hyper-parameters of the program; those must lie in the manifest's own ranges."""
_CHANNELS = {"grey": 1, "rgb": 3}


def is_plain_path(path: str) -> bool:
    """Whether a bundle's file may have this relative path: letters, digits, ``. _ - /``, and no ``..``."""
    return len(path) <= _MAX_PATH and bool(_PATH.fullmatch(path)) and not {".", ".."} & set(path.split("/"))


def check(manifest: Manifest) -> None:
    """What the types can't say: bounds, and that the parts agree."""
    if manifest.version != VERSION:
        fail("version", f"must be {VERSION}")
    _check_name(manifest.name, "name")
    if not 0 <= manifest.release <= _MAX_RELEASE:
        fail("release", f"must be 0 to {_MAX_RELEASE}")
    _check_task(manifest.task)
    _check_shape(manifest.latent.shape, "latent.shape", rank=3)
    _check_unique((parameter.name for parameter in manifest.plan.parameters), "plan.parameters")
    for index, parameter in enumerate(manifest.plan.parameters):
        _check_shape(parameter.shape, f"plan.parameters[{index}].shape")
    _check_unique((tensor.name for tensor in manifest.state), "state")
    for index, tensor in enumerate(manifest.state):
        _check_shape(tensor.shape, f"state[{index}].shape")
    state = {tensor.name: tensor.shape for tensor in manifest.state}
    _check_paths(manifest)
    for name, signature in manifest.signatures.items():
        _check_signature(signature, state, manifest.hyper, f"signatures.{name}")
    for name, hyper in manifest.hyper.items():
        if not hyper.min <= hyper.default <= hyper.max:
            fail(f"hyper.{name}", "must have min <= default <= max")
    for name, schedule in manifest.schedules.items():
        _check_schedule(schedule, manifest.hyper, f"schedules.{name}")
    _check_files(manifest)


def _check_paths(manifest: Manifest) -> None:
    trained = {tensor.name: tensor.shape for tensor in manifest.state if tensor.kind == "parameter"}
    seen: set[tuple[str, int]] = set()
    for index, path in enumerate(manifest.plan.paths):
        where = f"plan.paths[{index}]"
        if path.name not in trained:
            fail(f"{where}.name", f"is {path.name[:MAX_NAME]!r}, which is no trained tensor of the state")
        shape = trained[path.name]
        if not 0 <= path.axis < len(shape) or path.size < 1 or shape[path.axis] != path.size * manifest.task.slots:
            fail(where, "must divide an axis of its tensor into one path for each class slot")
        if (path.name, path.axis) in seen:
            fail(where, "is there twice")
        seen.add((path.name, path.axis))


def _check_task(task: Task) -> None:
    image = task.input
    if not task.classes:
        fail("task.classes", "must have at least one class")
    for index, name in enumerate(task.classes):
        _check_name(name, f"task.classes[{index}]")
    _check_unique(task.classes, "task.classes")
    if not len(task.classes) <= task.slots <= _MAX_SLOTS:
        fail("task.slots", f"must be at least the number of classes, and at most {_MAX_SLOTS}")
    _check_shape(image.shape, "task.input.shape", rank=3)
    if image.shape[2] != _CHANNELS[image.colour]:
        fail("task.input.shape", f"must end with {_CHANNELS[image.colour]} for colour {image.colour}")
    if len(image.range) != 2 or not -_MAX_PIXEL <= image.range[0] < image.range[1] <= _MAX_PIXEL:
        fail("task.input.range", f"must be two numbers within {_MAX_PIXEL:g} of 0, the smaller one first")
    if not len(image.mean) == len(image.std) == image.shape[2]:
        fail("task.input.mean", "and task.input.std must have one number a channel")
    if min(image.std) <= 0:
        fail("task.input.std", "must be above 0")


def _check_signature(signature: Signature, state: Mapping[str, Shape], hyper: Mapping[str, Hyper], path: str) -> None:
    if not 1 <= signature.batch <= _MAX_BATCH:
        fail(f"{path}.batch", f"must be 1 to {_MAX_BATCH}")
    for side in ("inputs", "outputs"):
        tensors: tuple[Tensor, ...] = getattr(signature, side)
        _check_unique((tensor.name for tensor in tensors), f"{path}.{side}")
        for index, tensor in enumerate(tensors):
            _check_shape(tensor.shape, f"{path}.{side}[{index}].shape")
    for index, tensor in enumerate(signature.inputs):
        if tensor.source == "hyper" and tensor.name not in hyper:
            fail(f"{path}.inputs[{index}].name", f"is {tensor.name!r}, which is not in hyper")
        if tensor.source == "state" and tensor.name not in state:
            fail(f"{path}.inputs[{index}].name", f"is {tensor.name!r}, which is not in state")
        if tensor.source == "state" and tensor.shape != state[tensor.name]:
            fail(f"{path}.inputs[{index}].shape", f"is not that of {tensor.name!r} in state")


def _check_schedule(schedule: Schedule, hyper: Mapping[str, Hyper], path: str) -> None:
    for field in ("max_old_loss", "max_class_loss"):
        if getattr(schedule.accept, field) < 0:
            fail(f"{path}.accept.{field}", "must be at least 0")
    for index, phase in enumerate(schedule.phases):
        where = f"{path}.phases[{index}]"
        if not isinstance(phase.get("kind"), str):
            fail(f"{where}.kind", "is missing or no text")
        missing = [key for key in _PHASE_NEEDS.get(str(phase["kind"]), ()) if key not in phase]
        if missing:
            fail(f"{where}.{missing[0]}", "is missing")
        for key, value in phase.items():
            low, high = _PHASE_RANGES.get(key, (hyper[key].min, hyper[key].max) if key in hyper else (None, None))
            if low is None or high is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                fail(f"{where}.{key}", f"must be a number from {low:g} to {high:g}")


def _check_files(manifest: Manifest) -> None:
    files = manifest.files
    for path, entry in files.items():
        where = f"files[{path[:MAX_NAME]!r}]"
        if not is_plain_path(path) or path.lower() in OWN_FILES:
            fail(
                where,
                "must be a relative path of letters, digits, '.', '_', '-' and '/', and not the manifest's",
            )
        if not _SHA256.fullmatch(entry.sha256):
            fail(f"{where}.sha256", "must be 64 small hex digits")
        if not 0 <= entry.bytes <= _MAX_FILE:
            fail(f"{where}.bytes", f"must be 0 to {_MAX_FILE}")
        parts = path.split("/")
        if any("/".join(parts[:depth]) in files for depth in range(1, len(parts))):
            fail(where, "lies in another file as if that were a folder")
    _check_unique((path.lower() for path in files), "files")
    for name, runtime in manifest.runtimes.items():
        if not any(path == runtime.file or path.startswith(runtime.file + "/") for path in files):
            fail(f"runtimes.{name}.file", f"is {runtime.file!r}, which is not in files")


def _check_shape(shape: Shape, path: str, rank: int | None = None) -> None:
    if rank is not None and (len(shape) != rank or min(shape) < 1):
        fail(path, f"must be {rank} sizes, each at least 1")
    if len(shape) > _MAX_RANK:
        fail(path, f"must have at most {_MAX_RANK} sizes")
    if not all(0 <= size <= _MAX_SIZE for size in shape) or math.prod(shape) > _MAX_SIZE:
        fail(path, f"must be sizes of 0 to {_MAX_SIZE}, and so must be their product")


def is_name(name: str) -> bool:
    """Whether a bundle or a class may have this name."""
    return bool(name.strip()) and len(name) <= MAX_NAME and all(unicodedata.category(c) not in _CONTROL for c in name)


def _check_name(name: str, path: str) -> None:
    if not is_name(name):
        fail(path, f"must be a text of 1 to {MAX_NAME} characters without control characters")


def _check_unique(names: Iterable[str], path: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            fail(path, f"has {name[:MAX_NAME]!r} twice")
        seen.add(name)
