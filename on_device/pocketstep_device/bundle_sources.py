"""Where a bundle's bytes come from: a folder or a stored zip, both untrusted."""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

from pocketstep_device.errors import BundleError
from pocketstep_device.manifest import MAX_MANIFEST, Manifest
from pocketstep_device.manifest_checks import DIGEST_FILE, MANIFEST_FILE

DIGEST_BYTES = 65  # 64 hex digits and a newline
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    struct.error,
    NotImplementedError,
    RuntimeError,
    EOFError,
    ValueError,
    OverflowError,
)


class Source(Protocol):
    """Where a bundle's files come from."""

    path: Path

    def stream(self, name: str) -> _Stream:
        """Opens a file and tells its real size in bytes."""

    def path_of(self, name: str) -> Path | None:
        """Where a file lies outside of any archive."""

    def check_layout(self, manifest: Manifest) -> None:
        """Refuses what the container must not hold."""


class _Stream(Protocol):
    def __enter__(self) -> tuple[IO[bytes], int]: ...
    def __exit__(self, *details: Any) -> bool | None: ...


class _Folder:
    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def stream(self, name: str) -> Iterator[tuple[IO[bytes], int]]:
        try:
            path = self.path
            for part in name.split("/"):
                path = path / part
                found = path.lstat()
                if stat.S_ISLNK(found.st_mode):
                    raise BundleError(f"{path} is a link, which a bundle can't hold. Copy the file itself there.")
            if not stat.S_ISREG(found.st_mode):
                raise BundleError(f"{path} is no plain file, but the manifest lists it as one. Fetch the bundle again.")
            with path.open("rb") as file:
                real = os.fstat(file.fileno())
                if not os.path.samestat(found, real):
                    raise BundleError(f"{path} was replaced while it was opened. Try again.")
                yield file, real.st_size
        except OSError as reason:
            raise BundleError(
                f"{name} of {self.path} can't be read ({reason.strerror or reason}). Fetch the bundle again."
            ) from reason

    def path_of(self, name: str) -> Path | None:
        return self.path / name

    def check_layout(self, manifest: Manifest) -> None:
        """A folder may hold other files: they are ignored."""


class _Zip:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._bytes = path.stat().st_size

    @contextmanager
    def _archive(self) -> Iterator[zipfile.ZipFile]:
        try:
            with zipfile.ZipFile(self.path) as archive:
                yield archive
        except (OSError, *_ZIP_ERRORS) as reason:
            raise BundleError(f"{self.path} is no intact zip ({reason}). Fetch the bundle again.") from reason

    @contextmanager
    def stream(self, name: str) -> Iterator[tuple[IO[bytes], int]]:
        with self._archive() as archive:
            if name not in archive.namelist():
                raise BundleError(f"{self.path} has no {name}. Fetch the bundle again, or check the path.")
            info = archive.getinfo(name)
            if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
                raise BundleError(f"{name} of {self.path} is compressed. Zip the bundle without compression.")
            with archive.open(info) as file:
                yield file, info.file_size

    def path_of(self, name: str) -> Path | None:
        return None

    def check_layout(self, manifest: Manifest) -> None:
        with self._archive() as archive:
            found = archive.infolist()
        names = [info.filename for info in found]
        wanted = {*manifest.files, MANIFEST_FILE, DIGEST_FILE}
        wrong = sorted(wanted.symmetric_difference(names))
        if wrong or len(names) != len(wanted):
            what = wrong[0] if wrong else "a file twice"
            raise BundleError(f"{self.path} does not hold exactly the manifest's files: {what!r}. Fetch it again.")
        for info in found:
            if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
                raise BundleError(f"{info.filename} of {self.path} is no plain file. Zip the bundle again.")
        if sum(info.file_size for info in found) > self._bytes:
            raise BundleError(f"The files of {self.path} claim more bytes than it has. Fetch the bundle again.")


def open_source(path: Path) -> Source:
    """A folder or a zip; BundleError for anything else."""
    try:
        mode = path.stat().st_mode
    except OSError as reason:
        raise BundleError(f"There is no bundle at {path} ({reason.strerror}). Check the path.") from reason
    if stat.S_ISDIR(mode):
        if not (path / MANIFEST_FILE).exists():
            raise BundleError(f"The folder {path} is no bundle: it has no {MANIFEST_FILE}. Check the path.")
        return _Folder(path)
    if not stat.S_ISREG(mode):
        raise BundleError(f"{path} is neither a folder nor a plain file, so it is no bundle. Check the path.")
    return _Zip(path)


def read_manifest(source: Source) -> bytes:
    """The manifest's bytes, compared with their digest."""
    with source.stream(MANIFEST_FILE) as (file, size):
        if size > MAX_MANIFEST:
            raise BundleError(f"{MANIFEST_FILE} of {source.path} has {size} bytes, too many. Fetch the bundle again.")
        data = file.read(size)
    with source.stream(DIGEST_FILE) as (file, size):
        line = file.read(DIGEST_BYTES + 1)
    if line != digest_line(data):
        raise BundleError(
            f"{MANIFEST_FILE} or {DIGEST_FILE} of {source.path} was cut or has changed bytes. Fetch the bundle again."
        )
    return data


def digest_line(data: bytes) -> bytes:
    """What ``manifest.sha256`` holds for these bytes."""
    return hashlib.sha256(data).hexdigest().encode() + b"\n"
