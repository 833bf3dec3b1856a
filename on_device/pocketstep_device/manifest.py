"""The manifest: the contract between the cloud that makes a bundle and the device that learns with it.

The dataclasses below are the format: every field is a JSON key of the same name, all are required, none other
is allowed. ``Manifest.parse`` reads strictly and names what is wrong by its path
(``signatures.step.inputs[3].shape``).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

from pocketstep_device.decoding import decode
from pocketstep_device.errors import BundleError
from pocketstep_device.manifest_checks import VERSION, check
from pocketstep_device.tensors import parse_json

FORMAT = "pocketstep-bundle"
MAX_MANIFEST = 4 * 2**20
"""Largest manifest that is read, in bytes: parsed, hostile JSON takes some twenty times as much memory."""

Shape = tuple[int, ...]
Scalar = str | bool | float
PhaseValue = str | bool | float | tuple[Scalar, ...]


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
class PathAxis:
    """Where a trained tensor's critical paths lie: path p, of class slot p, is p * size .. (p + 1) * size of an axis.

    A tensor with two entries holds, of each path, the block where both meet (a head's row and its own features); what
    lies outside the blocks is zero and stays so.
    """

    name: str
    axis: int
    size: int


@dataclass(frozen=True)
class Plan:
    """Which parameters are trained, and where the frozen prefix ends.

    ``paths`` may be left out: then there are none.
    """

    preset: str
    cut: str
    parameters: tuple[Parameter, ...]
    paths: tuple[PathAxis, ...] = ()


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
    """When an update is kept: how far held-back accuracy (0 to 1) may fall, of old classes together and of any one."""

    max_old_loss: float
    max_class_loss: float


@dataclass(frozen=True)
class Schedule:
    """What one kind of update does: phases in order, each with a ``kind``; the learner knows their keys."""

    meaning: str
    phases: tuple[Mapping[str, PhaseValue], ...]
    accept: Accept

    @property
    def training(self) -> int:
        """How many phases train; each leaves trained tensors of its own."""
        return sum(phase["kind"] == "train" for phase in self.phases)


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
    """All of ``manifest.json``.

    ``release`` counts up with what is published for the same devices (``pocketstep sign --release``); a device that
    had a bundle refuses one of a lower release. 0: not numbered.
    """

    format: str
    version: int
    name: str
    producer: str
    release: int
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
        manifest = cast(Manifest, decode(raw, cls, ""))
        check(manifest)
        return manifest

    def to_json(self) -> bytes:
        """The canonical bytes: keys sorted, indented by one, UTF-8, a newline at the end."""
        fields = dataclasses.asdict(self)
        if not self.plan.paths:
            del fields["plan"]["paths"]
        text = json.dumps(fields, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
        return text.encode("utf-8") + b"\n"
