"""Opening a bundle, a folder or a stored zip, with every byte checked; and writing one.

A bundle holds ``manifest.json``, ``manifest.sha256`` (the hex digest of the manifest's bytes and a newline)
and the files that the manifest lists. These digests find damage; they don't say who made the bundle.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import stat
import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Protocol

from pocketstep_device.errors import BundleError
from pocketstep_device.manifest import FORMAT, MAX_MANIFEST, Manifest
from pocketstep_device.manifest_checks import DIGEST_FILE, MANIFEST_FILE, is_plain_path
from pocketstep_device.tensors import Array, parse_json, read_tensors

_BLOCK = 2**20
_DIGEST_BYTES = 65  # 64 hex digits and a newline
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    struct.error,
    NotImplementedError,
    RuntimeError,
    EOFError,
    ValueError,
    OverflowError,
)


class Bundle:
    """A bundle whose every listed file had the right size and digest when it was opened.

    Nothing stays open between calls; each ``read`` checks again.

    Attributes:
        manifest: The parsed manifest.
        digest: SHA-256 of ``manifest.json``, 64 hex digits: the bundle's identity, since it covers all files.
        path: Where the bundle is.
    """

    def __init__(self, path: Path, source: _Source, manifest: Manifest, digest: str) -> None:
        self.path = path
        self.manifest = manifest
        self.digest = digest
        self._source = source

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Bundle:
        """Opens a folder or zip and checks all of it, in blocks of 1 MiB.

        Raises:
            BundleError: if it is not there, no bundle, cut, changed (the message names the file), holds
                links, or was made by a newer pocketstep.
        """
        path = Path(path)
        source = _source(path)
        data = _read_manifest(source)
        manifest = Manifest.parse(data)
        source.check_layout(manifest)
        bundle = cls(path, source, manifest, hashlib.sha256(data).hexdigest())
        for name in manifest.files:
            bundle._copy(name, None)
        return bundle

    def read(self, name: str) -> bytes:
        """The content of one file that the manifest lists, checked against its digest once more.

        Raises:
            BundleError: if the manifest does not list it, or it changed.
        """
        content = BytesIO()
        self._copy(name, content)
        return content.getvalue()

    def tensors(self, name: str) -> tuple[dict[str, Array], dict[str, str]]:
        """The tensors (read-only) and metadata of a safetensors file of the bundle.

        Raises:
            BundleError: if the manifest does not list it, it changed, or it is not strict safetensors.
        """
        return read_tensors(self.read(name), f"{name} of {self.path}", error=BundleError)

    def file_path(self, name: str) -> Path | None:
        """Where a file lies, or a folder of files (``program.mlpackage``), for a runtime that wants a path.

        Returns:
            The path, or None for a zip: then use ``read``.

        Raises:
            BundleError: if the manifest does not list it, or if a folder holds anything that is not listed.
        """
        if name not in self.manifest.files and not self._inside(name):
            raise self._unlisted(name)
        path = self._source.path_of(name)
        if path is not None and path.is_dir():
            items = (item for item in path.rglob("*") if item.is_symlink() or not item.is_dir())
            found = {item.relative_to(self.path).as_posix() for item in items}
            if found != self._inside(name):
                raise BundleError(f"The folder {path} holds files that the manifest does not list. Remove them.")
        return path

    def _inside(self, folder: str) -> set[str]:
        return {name for name in self.manifest.files if name.startswith(folder + "/")}

    def _unlisted(self, name: str) -> BundleError:
        return BundleError(f"{self.path} has no file {name!r}. Build the bundle again for the runtime that needs it.")

    def _copy(self, name: str, target: IO[bytes] | None) -> None:
        """Streams a listed file through its checks, into ``target`` if there is one."""
        entry = self.manifest.files.get(name)
        if entry is None:
            raise self._unlisted(name)
        digest = hashlib.sha256()
        with self._source.stream(name) as (file, size):
            if size != entry.bytes:
                raise BundleError(
                    f"{name} of {self.path} has {size} bytes and the manifest says {entry.bytes}: "
                    "it was cut or changed. Fetch the bundle again."
                )
            rest = size
            while rest and (block := file.read(min(_BLOCK, rest))):
                digest.update(block)
                rest -= len(block)
                if target is not None:
                    target.write(block)
        if digest.hexdigest() != entry.sha256:
            raise BundleError(f"{name} of {self.path} has changed bytes: its digest differs. Fetch the bundle again.")


class _Source(Protocol):
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


def write_bundle(folder: Path, manifest_without_files: Mapping[str, Any], files: Mapping[str, Path | bytes]) -> Bundle:
    """Writes a folder bundle: all of it or nothing, in place of an older bundle if there is one.

    Args:
        folder: Where the bundle goes; its parent must exist.
        manifest_without_files: The manifest's JSON object without ``files``, which is computed here.
        files: Content by relative path: bytes, or a plain file to copy.

    Returns:
        The bundle, opened and checked.

    Raises:
        BundleError: if the manifest or a path is wrong, a file can't be written, or ``folder`` holds
            something that is not a bundle.
    """
    for name in files:
        if not is_plain_path(name) or name in (MANIFEST_FILE, DIGEST_FILE):
            raise BundleError(f"A bundle can't hold a file named {name!r}. Use letters, digits, '.', '_', '-' and '/'.")
    _check_replaceable(folder)
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.mkdir()
        entries = {name: _write_file(temporary / name, content) for name, content in files.items()}
        manifest = Manifest.parse(json.dumps({**manifest_without_files, "files": entries}).encode())
        data = manifest.to_json()
        (temporary / MANIFEST_FILE).write_bytes(data)
        (temporary / DIGEST_FILE).write_bytes(_digest_line(data))
        _replace_folder(temporary, folder)
    except OSError as reason:
        raise BundleError(
            f"{folder} can't be written ({reason}). Free some space or choose another folder."
        ) from reason
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Bundle.open(folder)


def zip_bundle(folder: Path, target: Path) -> None:
    """Packs a folder bundle into one stored zip; equal bundles give equal bytes.

    Args:
        folder: The bundle; it is checked first. Files that its manifest does not list are left out.
        target: The zip, replaced if it exists.

    Raises:
        BundleError: if the bundle is not intact or the zip can't be written.
    """
    bundle = Bundle.open(folder)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with zipfile.ZipFile(temporary, "x", zipfile.ZIP_STORED) as archive:
            data = _read_manifest(bundle._source)
            archive.writestr(_zip_info(MANIFEST_FILE, len(data)), data)
            archive.writestr(_zip_info(DIGEST_FILE, _DIGEST_BYTES), _digest_line(data))
            for name in sorted(bundle.manifest.files):
                info = _zip_info(name, bundle.manifest.files[name].bytes)
                with archive.open(info, "w") as file:
                    bundle._copy(name, file)
        temporary.replace(target)
    except OSError as reason:
        raise BundleError(f"{target} can't be written ({reason}). Free some space or choose another path.") from reason
    finally:
        temporary.unlink(missing_ok=True)


def _source(path: Path) -> _Source:
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


def _read_manifest(source: _Source) -> bytes:
    with source.stream(MANIFEST_FILE) as (file, size):
        if size > MAX_MANIFEST:
            raise BundleError(f"{MANIFEST_FILE} of {source.path} has {size} bytes, too many. Fetch the bundle again.")
        data = file.read(size)
    with source.stream(DIGEST_FILE) as (file, size):
        line = file.read(_DIGEST_BYTES + 1)
    if line != _digest_line(data):
        raise BundleError(
            f"{MANIFEST_FILE} or {DIGEST_FILE} of {source.path} was cut or has changed bytes. Fetch the bundle again."
        )
    return data


def _digest_line(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode() + b"\n"


def _check_replaceable(folder: Path) -> None:
    """Refuses to write over anything but an empty folder or a bundle, intact or not."""
    if not folder.exists() and not folder.is_symlink():
        return
    if folder.is_dir() and not folder.is_symlink():
        if not any(folder.iterdir()):
            return
        try:
            raw = parse_json((folder / MANIFEST_FILE).read_bytes(), MANIFEST_FILE, BundleError)
        except (OSError, BundleError):
            raw = None
        if isinstance(raw, dict) and raw.get("format") == FORMAT:
            return
    raise BundleError(f"{folder} exists and is no bundle, so it is not replaced. Choose another place or remove it.")


def _write_file(path: Path, content: Path | bytes) -> dict[str, Any]:
    """Writes one file of a bundle and returns its entry for the manifest."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with (
        BytesIO(content) if isinstance(content, bytes) else content.open("rb") as source,
        path.open("xb") as target,
    ):
        while block := source.read(_BLOCK):
            digest.update(block)
            size += target.write(block)
    return {"sha256": digest.hexdigest(), "bytes": size}


def _replace_folder(new: Path, folder: Path) -> None:
    """Renames ``new`` to ``folder``; an older one is put aside first, and back if that fails."""
    if not folder.exists():
        new.rename(folder)
        return
    aside = new.with_suffix(".old")
    folder.rename(aside)
    try:
        new.rename(folder)
    except OSError:
        aside.rename(folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _zip_info(name: str, size: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _ZIP_DATE)
    info.create_system = 3  # Unix, on every system
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    info.file_size = size
    return info
