"""The manifest: the contract between the cloud that makes a bundle and the device that learns with it.

The dataclasses below are the format: every field is a JSON key of the same name, all are required, none other
is allowed. ``Manifest.parse`` reads strictly and names what is wrong by its path
(``signatures.step.inputs[3].shape``).
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import types
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NoReturn, cast, get_args, get_origin, get_type_hints

from pocketstep_device.errors import BundleError
from pocketstep_device.tensors import parse_json

FORMAT = "pocketstep-bundle"
VERSION = 1
MANIFEST_FILE = "manifest.json"
DIGEST_FILE = "manifest.sha256"
MAX_MANIFEST = 16 * 2**20
"""Largest manifest that is read, in bytes."""

Shape = tuple[int, ...]
Scalar = str | bool | float
PhaseValue = str | bool | float | tuple[Scalar, ...]

_MAX_SLOTS = 100_000
_MAX_BATCH = 65_536
_MAX_RANK = 5
_MAX_SIZE = 2**31
_MAX_FILE = 2**40
_MAX_TEXT = 4096
_MAX_NAME = 200
_MAX_PATH = 255
_PATH = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CONTROL = {"Cc", "Cs", "Zl", "Zp"}
_CHANNELS = {"grey": 1, "rgb": 3}
_KINDS = {str: "text", int: "a whole number", float: "a finite number", bool: "true or false"}


@dataclass(frozen=True)
class ImageInput:
    """What ``encode`` takes: shape (H, W, C), values in ``range``; mean and std have C numbers."""

    shape: Shape
    range: tuple[float, ...]
    colour: Literal["grey", "rgb"]
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Task:
    """The classes that the bundle knows from the start; rows up to ``slots`` are free for new ones."""

    classes: tuple[str, ...]
    slots: int
    input: ImageInput


@dataclass(frozen=True)
class Latent:
    """The frozen prefix's output for one image: shape (h, w, c), as it is stored."""

    shape: Shape
    dtype: Literal["int8"]


@dataclass(frozen=True)
class Parameter:
    """One parameter of the network and what training may do to it."""

    name: str
    role: Literal["frozen", "centre", "full", "head"]
    shape: Shape
    trained: bool
    group: str | None


@dataclass(frozen=True)
class Plan:
    """Which parameters are trained, and where the frozen prefix ends."""

    preset: str
    cut: str
    parameters: tuple[Parameter, ...]


@dataclass(frozen=True)
class Tensor:
    """An input or output of a signature; ``source`` says where an input comes from, or what an output is."""

    name: str
    shape: Shape
    dtype: Literal["float32"]
    source: Literal["batch", "state", "hyper", "control", "statistics", "result"]
    meaning: str


@dataclass(frozen=True)
class Signature:
    """One entry point of the program."""

    batch: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


@dataclass(frozen=True)
class StateTensor:
    """A tensor that changes on the device."""

    name: str
    shape: Shape
    dtype: Literal["float32"]
    kind: Literal["parameter", "optimiser", "head", "statistics", "control"]


@dataclass(frozen=True)
class Hyper:
    """A hyper-parameter, its default and the range it may be set in."""

    default: float
    min: float
    max: float
    meaning: str


@dataclass(frozen=True)
class Accept:
    """When an update is kept: old classes' held-back accuracy (0 to 1) may fall by at most this much."""

    max_old_loss: float


@dataclass(frozen=True)
class Schedule:
    """What one kind of update does: phases in order, each with a ``kind``; the learner knows their keys."""

    meaning: str
    phases: tuple[Mapping[str, PhaseValue], ...]
    accept: Accept


@dataclass(frozen=True)
class Runtime:
    """One runtime's program, the versions it was exported with, and what its accelerator takes over."""

    file: str
    versions: Mapping[str, str]
    delegated: Mapping[str, float]


@dataclass(frozen=True)
class FileEntry:
    """Digest (64 hex digits) and size of one file of the bundle."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """All of ``manifest.json``."""

    format: str
    version: int
    name: str
    producer: str
    task: Task
    latent: Latent
    plan: Plan
    signatures: Mapping[str, Signature]
    state: tuple[StateTensor, ...]
    hyper: Mapping[str, Hyper]
    schedules: Mapping[str, Schedule]
    cost: Mapping[str, float]
    runtimes: Mapping[str, Runtime]
    files: Mapping[str, FileEntry]

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """Reads and checks a manifest.

        Raises:
            BundleError: if it is no manifest, made by a newer pocketstep, or wrong anywhere; the message has
                the path of the first field that is wrong.
        """
        if len(data) > MAX_MANIFEST:
            raise BundleError(f"The manifest has {len(data)} bytes, more than {MAX_MANIFEST}. Fetch the bundle again.")
        raw = parse_json(data, "The manifest", BundleError)
        if not isinstance(raw, dict) or raw.get("format") != FORMAT:
            raise BundleError(f'The manifest has no "format": "{FORMAT}", so this is no bundle. Check the path.')
        version = raw.get("version")
        if type(version) is int and version > VERSION:
            raise BundleError(
                f"The bundle has format version {version} and {VERSION} is understood: it was made by "
                "a newer pocketstep; update pocketstep-device or rebuild the bundle."
            )
        manifest = cast(Manifest, _decode(raw, cls, ""))
        _check(manifest)
        return manifest

    def to_json(self) -> bytes:
        """The canonical bytes: keys sorted, indented by one, UTF-8, a newline at the end."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
        return text.encode("utf-8") + b"\n"


def is_plain_path(path: str) -> bool:
    """Whether a bundle's file may have this relative path: letters, digits, ``. _ - /``, and no ``..``."""
    return len(path) <= _MAX_PATH and bool(_PATH.fullmatch(path)) and not {".", ".."} & set(path.split("/"))


def _fail(path: str, problem: str) -> NoReturn:
    raise BundleError(f"The manifest's {path or 'top level'} {problem}. Build the bundle again, or fetch it again.")


@cache
def _fields(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _decode(value: object, hint: Any, path: str) -> Any:
    """Turns a JSON value into what a type hint says, or fails with the path of what does not fit."""
    if dataclasses.is_dataclass(hint):
        return _decode_object(value, cast(type, hint), path)
    origin = get_origin(hint)
    if origin is Literal:
        if value not in get_args(hint):
            _fail(path, f"must be one of {', '.join(get_args(hint))}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            _fail(path, "must be a list")
        return tuple(_decode(item, get_args(hint)[0], f"{path}[{index}]") for index, item in enumerate(value))
    if origin is Mapping:
        if not isinstance(value, dict):
            _fail(path, "must be an object")
        return {
            _decode(key, str, f"{path} (a key)"): _decode(item, get_args(hint)[1], _join(path, key))
            for key, item in value.items()
        }
    if origin is types.UnionType:
        return _decode_union(value, get_args(hint), path)
    return _decode_scalar(value, hint, path)


def _decode_object(value: object, kind: type, path: str) -> Any:
    if not isinstance(value, dict):
        _fail(path, "must be an object")
    hints = _fields(kind)
    for name in hints:
        if name not in value:
            _fail(_join(path, name), "is missing")
    for name in value:
        if name not in hints:
            _fail(_join(path, name[:_MAX_NAME]), "is unknown")
    return kind(**{name: _decode(value[name], hint, _join(path, name)) for name, hint in hints.items()})


def _decode_union(value: object, options: tuple[Any, ...], path: str) -> Any:
    if value is None and type(None) in options:
        return None
    for option in options:
        try:
            return _decode(value, option, path)
        except BundleError:
            continue
    return _fail(path, "has a type that does not belong there")


def _decode_scalar(value: object, kind: type, path: str) -> object:
    fits = type(value) is kind or (kind is float and type(value) is int)
    if not fits or (isinstance(value, float) and not math.isfinite(value)):
        _fail(path, f"must be {_KINDS.get(kind, 'null')}")
    if isinstance(value, str) and len(value) > _MAX_TEXT:
        _fail(path, f"is longer than {_MAX_TEXT} characters")
    return value


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _check(manifest: Manifest) -> None:
    """What the types can't say: bounds, and that the parts agree."""
    if manifest.version != VERSION:
        _fail("version", f"must be {VERSION}")
    _check_name(manifest.name, "name")
    _check_task(manifest.task)
    _check_shape(manifest.latent.shape, "latent.shape", rank=3)
    _check_unique((parameter.name for parameter in manifest.plan.parameters), "plan.parameters")
    for index, parameter in enumerate(manifest.plan.parameters):
        _check_shape(parameter.shape, f"plan.parameters[{index}].shape")
    _check_unique((tensor.name for tensor in manifest.state), "state")
    for index, tensor in enumerate(manifest.state):
        _check_shape(tensor.shape, f"state[{index}].shape")
    state = {tensor.name: tensor.shape for tensor in manifest.state}
    for name, signature in manifest.signatures.items():
        _check_signature(signature, state, f"signatures.{name}")
    for name, hyper in manifest.hyper.items():
        if not hyper.min <= hyper.default <= hyper.max:
            _fail(f"hyper.{name}", "must have min <= default <= max")
    _check_schedules(manifest.schedules)
    _check_files(manifest)


def _check_task(task: Task) -> None:
    image = task.input
    if not task.classes:
        _fail("task.classes", "must have at least one class")
    for index, name in enumerate(task.classes):
        _check_name(name, f"task.classes[{index}]")
    _check_unique(task.classes, "task.classes")
    if not len(task.classes) <= task.slots <= _MAX_SLOTS:
        _fail("task.slots", f"must be at least the number of classes, and at most {_MAX_SLOTS}")
    _check_shape(image.shape, "task.input.shape", rank=3)
    if image.shape[2] != _CHANNELS[image.colour]:
        _fail("task.input.shape", f"must end with {_CHANNELS[image.colour]} for colour {image.colour}")
    if len(image.range) != 2 or image.range[0] >= image.range[1]:
        _fail("task.input.range", "must be two numbers, the smaller one first")
    if not len(image.mean) == len(image.std) == image.shape[2]:
        _fail("task.input.mean", "and task.input.std must have one number a channel")
    if min(image.std) <= 0:
        _fail("task.input.std", "must be above 0")


def _check_signature(signature: Signature, state: Mapping[str, Shape], path: str) -> None:
    if not 1 <= signature.batch <= _MAX_BATCH:
        _fail(f"{path}.batch", f"must be 1 to {_MAX_BATCH}")
    for side in ("inputs", "outputs"):
        tensors: tuple[Tensor, ...] = getattr(signature, side)
        _check_unique((tensor.name for tensor in tensors), f"{path}.{side}")
        for index, tensor in enumerate(tensors):
            _check_shape(tensor.shape, f"{path}.{side}[{index}].shape")
    for index, tensor in enumerate(signature.inputs):
        if tensor.source == "state" and tensor.name not in state:
            _fail(f"{path}.inputs[{index}].name", f"is {tensor.name!r}, which is not in state")
        if tensor.source == "state" and tensor.shape != state[tensor.name]:
            _fail(f"{path}.inputs[{index}].shape", f"is not that of {tensor.name!r} in state")


def _check_schedules(schedules: Mapping[str, Schedule]) -> None:
    for name, schedule in schedules.items():
        if schedule.accept.max_old_loss < 0:
            _fail(f"schedules.{name}.accept.max_old_loss", "must be at least 0")
        for index, phase in enumerate(schedule.phases):
            if not isinstance(phase.get("kind"), str):
                _fail(f"schedules.{name}.phases[{index}].kind", "is missing or no text")


def _check_files(manifest: Manifest) -> None:
    files = manifest.files
    for path, entry in files.items():
        where = f"files[{path[:_MAX_NAME]!r}]"
        if not is_plain_path(path) or path.lower() in (MANIFEST_FILE, DIGEST_FILE):
            _fail(
                where,
                "must be a relative path of letters, digits, '.', '_', '-' and '/', and not the manifest's",
            )
        if not _SHA256.fullmatch(entry.sha256):
            _fail(f"{where}.sha256", "must be 64 small hex digits")
        if not 0 <= entry.bytes <= _MAX_FILE:
            _fail(f"{where}.bytes", f"must be 0 to {_MAX_FILE}")
        parts = path.split("/")
        if any("/".join(parts[:depth]) in files for depth in range(1, len(parts))):
            _fail(where, "lies in another file as if that were a folder")
    _check_unique((path.lower() for path in files), "files")
    for name, runtime in manifest.runtimes.items():
        if not any(path == runtime.file or path.startswith(runtime.file + "/") for path in files):
            _fail(f"runtimes.{name}.file", f"is {runtime.file!r}, which is not in files")


def _check_shape(shape: Shape, path: str, rank: int | None = None) -> None:
    if rank is not None and (len(shape) != rank or min(shape) < 1):
        _fail(path, f"must be {rank} sizes, each at least 1")
    if len(shape) > _MAX_RANK:
        _fail(path, f"must have at most {_MAX_RANK} sizes")
    if not all(0 <= size <= _MAX_SIZE for size in shape) or math.prod(shape) > _MAX_SIZE:
        _fail(path, f"must be sizes of 0 to {_MAX_SIZE}, and so must be their product")


def _check_name(name: str, path: str) -> None:
    if not name.strip() or len(name) > _MAX_NAME or any(unicodedata.category(char) in _CONTROL for char in name):
        _fail(path, f"must be a text of 1 to {_MAX_NAME} characters without control characters")


def _check_unique(names: Iterable[str], path: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            _fail(path, f"has {name[:_MAX_NAME]!r} twice")
        seen.add(name)
