"""Writes bundles: the cloud's side of the contract, kept beside the reader."""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
import stat
import zipfile
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from pocketstep_device.bundle import Bundle
from pocketstep_device.bundle_sources import DIGEST_BYTES, digest_line, read_manifest, read_signature
from pocketstep_device.errors import BundleError
from pocketstep_device.manifest import FORMAT, Manifest
from pocketstep_device.manifest_checks import DIGEST_FILE, MANIFEST_FILE, OWN_FILES, SIGNATURE_FILE, is_plain_path
from pocketstep_device.tensors import parse_json

_BLOCK = 2**20
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)


def write_bundle(
    folder: Path,
    manifest_without_files: Mapping[str, Any],
    files: Mapping[str, Path | bytes],
    sign: Callable[[bytes], bytes] | None = None,
) -> Bundle:
    """Writes a folder bundle: all of it or nothing, in place of an older bundle if there is one.

    Args:
        folder: Where the bundle goes; its parent must exist.
        manifest_without_files: The manifest's JSON object without ``files``, which is computed here.
        files: Content by relative path: bytes, or a plain file to copy.
        sign: Gives the ed25519 signature of the manifest's bytes; None leaves the bundle unsigned.

    Returns:
        The bundle, opened and checked.

    Raises:
        BundleError: if the manifest or a path is wrong, a file can't be written, or ``folder`` holds
            something that is not a bundle.
    """
    for name in files:
        if not is_plain_path(name) or name in OWN_FILES:
            raise BundleError(f"A bundle can't hold a file named {name!r}. Use letters, digits, '.', '_', '-' and '/'.")
    _check_replaceable(folder)
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.mkdir()
        entries = {name: _write_file(temporary / name, content) for name, content in files.items()}
        manifest = Manifest.parse(json.dumps({**manifest_without_files, "files": entries}).encode())
        data = manifest.to_json()
        (temporary / MANIFEST_FILE).write_bytes(data)
        (temporary / DIGEST_FILE).write_bytes(digest_line(data))
        if sign is not None:
            (temporary / SIGNATURE_FILE).write_bytes(sign(data))
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
            data = read_manifest(bundle._source)
            archive.writestr(_zip_info(MANIFEST_FILE, len(data)), data)
            archive.writestr(_zip_info(DIGEST_FILE, DIGEST_BYTES), digest_line(data))
            if (signature := read_signature(bundle._source)) is not None:
                archive.writestr(_zip_info(SIGNATURE_FILE, len(signature)), signature)
            for name in sorted(bundle.manifest.files):
                info = _zip_info(name, bundle.manifest.files[name].bytes)
                with archive.open(info, "w") as file:
                    bundle.copy(name, file)
        temporary.replace(target)
    except OSError as reason:
        raise BundleError(f"{target} can't be written ({reason}). Free some space or choose another path.") from reason
    finally:
        temporary.unlink(missing_ok=True)


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
