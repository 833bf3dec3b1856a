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

from pocketstep_device.ed25519 import SIGNATURE_BYTES
from pocketstep_device.errors import BundleError
from pocketstep_device.manifest import MAX_MANIFEST, Manifest
from pocketstep_device.manifest_checks import DIGEST_FILE, MANIFEST_FILE, SIGNATURE_FILE
from pocketstep_device.storage import open_plain

DIGEST_BYTES = 65  # 64 hex digits and a newline
MAX_FILES = 256
"""Most files of a zip; its directory is read once for each."""
MAX_DIRECTORY = 2**17
"""Longest directory of a zip, in bytes."""
_END = struct.Struct("<4s4H2LH")  # the end of a zip's directory: mark, disks, entries, size, offset, comment
_END_MARK, _LOCATOR_MARK, _LOCATOR_BYTES = b"PK\5\6", b"PK\6\7", 20
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

    def has(self, name: str) -> bool:
        """Whether there is anything of that name."""

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

    def has(self, name: str) -> bool:
        return os.path.lexists(self.path / name)

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
            with open_plain(path) as file:
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

    def has(self, name: str) -> bool:
        with self._archive() as archive:
            return name in archive.namelist()

    @contextmanager
    def _archive(self) -> Iterator[zipfile.ZipFile]:
        try:
            with self.path.open("rb") as file:
                _check_directory(file, self.path)
                with zipfile.ZipFile(file) as archive:
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
        wanted = {*manifest.files, MANIFEST_FILE, DIGEST_FILE, *({SIGNATURE_FILE} & set(names))}
        wrong = sorted(wanted.symmetric_difference(names))
        if wrong or len(names) != len(wanted):
            what = wrong[0] if wrong else "a file twice"
            raise BundleError(f"{self.path} does not hold exactly the manifest's files: {what!r}. Fetch it again.")
        for info in found:
            if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
                raise BundleError(f"{info.filename} of {self.path} is no plain file. Zip the bundle again.")
        if sum(info.file_size for info in found) > self._bytes:
            raise BundleError(f"The files of {self.path} claim more bytes than it has. Fetch the bundle again.")


def _check_directory(file: IO[bytes], path: Path) -> None:
    """Refuses a zip whose directory would take much memory to read, before anything reads it.

    The end of the directory must be the file's last 22 bytes, as it is where there is no comment: then zipfile, too,
    takes it from there. A second, 64-bit end, which could say otherwise, is refused.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _END.size - _LOCATOR_BYTES))
    tail = file.read()
    locator, end = tail[: -_END.size], tail[-_END.size :]
    if len(end) < _END.size or not end.startswith(_END_MARK) or _END.unpack(end)[-1] != 0:
        raise BundleError(f"{path} is no intact zip, or has a comment. Fetch the bundle again.")
    if locator.startswith(_LOCATOR_MARK):
        raise BundleError(f"{path} is a zip of the 64-bit kind. Zip the bundle again without that.")
    _, disk, first, here, entries, length, _, _ = _END.unpack(end)
    if disk or first or here != entries or entries > MAX_FILES or length > MAX_DIRECTORY:
        raise BundleError(
            f"{path} claims {entries} files and {length} bytes of names; at most {MAX_FILES} and {MAX_DIRECTORY} are "
            "read. Fetch the bundle again."
        )
    file.seek(0)


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


def read_signature(source: Source) -> bytes | None:
    """The bytes of ``signature.ed25519``; None where there is none."""
    if not source.has(SIGNATURE_FILE):
        return None
    with source.stream(SIGNATURE_FILE) as (file, size):
        if size != SIGNATURE_BYTES:
            raise BundleError(
                f"{SIGNATURE_FILE} of {source.path} has {size} bytes, and a signature has {SIGNATURE_BYTES}: "
                "it was cut or changed. Fetch the bundle again."
            )
        return file.read(size)
