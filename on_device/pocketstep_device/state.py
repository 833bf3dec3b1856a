"""What the device has learned: numbered snapshots that a crash can't tear and damage can't slip into.

A snapshot is a safetensors file whose metadata holds ``format``, ``version`` (of the format), ``bundle``
(digest of the manifest that it belongs to), ``snapshot`` (its number), ``info`` (JSON) and ``sha256`` over
all of these and every tensor. That digest is computed alike in every version of the format.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketstep_device.errors import InputError, StateError
from pocketstep_device.storage import may_be_intact, read_regular, remove_leftovers, write_atomically
from pocketstep_device.tensors import Array, flat_bytes, parse_json, read_tensors, write_tensors

FORMAT = "pocketstep-state"
VERSION = 1

_FILE = re.compile(r"snapshot-(\d{6,18})\.safetensors")
_NUMBER = re.compile(r"[0-9]{1,9}")
_DIGEST = "sha256"
_LAST = 10**18 - 1


@dataclass(frozen=True)
class Snapshot:
    """One saved state.

    Attributes:
        version: Its number, from 1.
        tensors: Arrays by name; read-only when loaded.
        info: A JSON object of the caller's. ``info["keep"]``, a list of versions, keeps those from removal.
        bundle: ``Bundle.digest`` of the bundle that it belongs to.
    """

    version: int
    tensors: dict[str, Array]
    info: dict[str, Any]
    bundle: str


class _DamagedError(StateError):
    """A snapshot that an older one can stand in for."""


class StateStore:
    """The snapshots of one bundle in one folder. Hold the folder's ``FolderLock`` while using it.

    Args:
        folder: Where they lie; made if it is missing.
        bundle_id: ``Bundle.digest`` of the bundle that they belong to.
        most_bytes: The largest snapshot that is read.

    Attributes:
        folder: As given.
        notes: What went wrong without stopping anything, in sentences for the user.

    Raises:
        StateError: if the folder can't be made.
    """

    def __init__(self, folder: Path, bundle_id: str, most_bytes: int = 2**31) -> None:
        self.notes: list[str] = []
        self.folder = folder
        self._bundle, self._most_bytes = bundle_id, most_bytes
        self._good: int | None = None  # the snapshot that was loaded or saved last
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as reason:
            raise StateError(
                f"The state folder {folder} can't be made ({reason.strerror}). Choose another one."
            ) from reason

    def load(self, any_bundle: bool = False) -> Snapshot | None:
        """The newest snapshot that is intact; None if there never was one.

        Damaged ones are passed over and named in ``notes``.

        Args:
            any_bundle: Whether it may belong to another bundle: for adopting it.

        Raises:
            StateError: if all are damaged, one may not be read, or the newest belongs to another bundle or to a
                newer pocketstep.
        """
        versions = self._versions()
        for version in reversed(versions):
            try:
                snapshot = self.load_version(version, any_bundle)
            except _DamagedError as problem:
                if may_be_intact(problem):  # nothing older in its place
                    raise StateError(str(problem)) from problem
                self.notes.append(f"{problem} An older state is used instead.")
                continue
            self._good = version
            return snapshot
        if versions:
            raise StateError(
                f"Every saved state in {self.folder} is damaged. "
                "Restore the folder from a copy, or remove it to begin from the bundle."
            )
        return None

    def load_version(self, version: int, any_bundle: bool = False) -> Snapshot:
        """One snapshot by its number, checked; ``any_bundle`` as for ``load``.

        Raises:
            StateError: if it is missing or damaged, or belongs to another bundle or to a newer pocketstep.
        """
        path = self._path(version)
        data = read_regular(path, self._most_bytes, f"The saved state {path}", _DamagedError)
        tensors, metadata = read_tensors(data, f"The saved state {path}", error=_DamagedError)
        claimed = metadata.pop(_DIGEST, "")
        if claimed != _digest(tensors, metadata):
            raise _DamagedError(f"The saved state {path} is damaged: its digest differs.")
        self._check_origin(path, metadata, any_bundle)
        if metadata.get("snapshot") != str(version):
            raise _DamagedError(f"The saved state {path} was renamed: it is number {metadata.get('snapshot')}.")
        info = parse_json(metadata.get("info", "").encode(), f"The info of {path}", _DamagedError)
        if not isinstance(info, dict):
            raise _DamagedError(f"The saved state {path} is damaged: its info is no JSON object.")
        return Snapshot(version, tensors, info, metadata["bundle"])

    def infos(self) -> dict[int, dict[str, Any]]:
        """The info of every intact snapshot by version, whatever its bundle: what they refer to must not be removed.

        Raises:
            StateError: if one could not be read, and may be intact.
        """
        infos = {}
        for version in self._versions():
            try:
                infos[version] = self.load_version(version, any_bundle=True).info
            except _DamagedError as problem:
                if may_be_intact(problem):
                    raise
        return infos

    def save(self, tensors: Mapping[str, Array], info: Mapping[str, Any]) -> Snapshot:
        """Saves a new snapshot, then removes all but it, the one before it, and those in ``info["keep"]``.

        Args:
            tensors: Finite arrays by name.
            info: A JSON object.

        Raises:
            InputError: if a tensor or the info can't be kept (NaN, another type); nothing is written.
            StateError: if the disk refuses; the snapshots before stay as they are.
        """
        text, keep = _info_text(info)
        versions = self._versions()
        version = max(versions, default=0) + 1
        if version > _LAST:
            raise StateError(f"{self._path(version - 1)} has the last number there is: it is none of ours. Remove it.")
        metadata = {
            "format": FORMAT,
            "version": str(VERSION),
            "bundle": self._bundle,
            "snapshot": str(version),
            "info": text,
        }
        metadata[_DIGEST] = _digest(tensors, metadata)
        write_atomically(self._path(version), write_tensors(tensors, metadata))
        before = self._good if self._good is not None else max(versions, default=0)
        self._good = version
        self._remove(set(versions) - {before, *keep})
        return Snapshot(version, dict(tensors), json.loads(text), self._bundle)

    def _check_origin(self, path: Path, metadata: Mapping[str, str], any_bundle: bool) -> None:
        version = metadata.get("version", "")
        if metadata.get("format") != FORMAT or not _NUMBER.fullmatch(version):
            raise _DamagedError(f"{path} is no saved state of pocketstep.")
        if int(version) > VERSION:
            raise StateError(f"{path} was saved by a newer pocketstep. Update pocketstep-device.")
        if metadata.get("bundle") is None:
            raise _DamagedError(f"The saved state {path} is damaged: it does not name its bundle.")
        if metadata["bundle"] != self._bundle and not any_bundle:
            raise StateError(
                f"The saved state {path} belongs to another bundle. Open that bundle, let this one adopt the state "
                "('pocketstep-device adopt'), or choose another state folder for it."
            )

    def _versions(self) -> list[int]:
        try:
            matches = [_FILE.fullmatch(path.name) for path in self.folder.iterdir()]
        except OSError as reason:
            raise StateError(
                f"The state folder {self.folder} can't be read ({reason.strerror}). Check its permissions."
            ) from reason
        return sorted(int(match[1]) for match in matches if match and match[0] == _file_name(int(match[1])))

    def _path(self, version: int) -> Path:
        return self.folder / _file_name(version)

    def _remove(self, versions: Iterable[int]) -> None:
        remove_leftovers(self.folder)
        for version in sorted(versions):
            try:
                self._path(version).unlink(missing_ok=True)
            except OSError as reason:
                self.notes.append(f"The old state {self._path(version)} could not be removed ({reason.strerror}).")


def _file_name(version: int) -> str:
    return f"snapshot-{version:06d}.safetensors"


def _digest(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> str:
    """SHA-256 over metadata and tensors, each after its name, type and shape, in the order of names."""
    digest = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(json.dumps([name, array.dtype.name, list(array.shape)]).encode())
        digest.update(flat_bytes(array))
    return digest.hexdigest()


def _info_text(info: Mapping[str, Any]) -> tuple[str, list[int]]:
    """The info as JSON, and the versions that it keeps."""
    keep = info.get("keep", [])
    if not isinstance(keep, list) or not all(type(version) is int for version in keep):
        raise InputError(f'info["keep"] must be a list of version numbers, not {keep!r}.')
    try:
        return json.dumps(dict(info), sort_keys=True, allow_nan=False), keep
    except (TypeError, ValueError) as reason:
        raise InputError(f"The info of a state must be finite JSON ({reason}); leave that value out.") from reason
