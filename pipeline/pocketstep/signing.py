"""Signing bundles: ed25519 over the manifest, which holds the digest of every other file."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pocketstep_device.bundle import Bundle
from pocketstep_device.bundle_writer import write_bundle, zip_bundle
from pocketstep_device.errors import CheckFailedError, InputError
from pocketstep_device.storage import read_regular
from pocketstep_device.trust import parse_key

_MOST_BYTES = 4096


def generate_key(name: Path) -> tuple[Path, Path]:
    """Writes a new key pair.

    Args:
        name: without suffix.

    Returns:
        ``NAME.key``, PKCS #8 in PEM, readable by its owner only: whoever has it can sign; and ``NAME.pub``, the public
        key as 64 hex digits, which apps pin.

    Raises:
        InputError: one of them exists already, or the folder can't be written.
    """
    key = Ed25519PrivateKey.generate()
    encoding, plain = serialization.Encoding, serialization.NoEncryption()
    private = key.private_bytes(encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    public = key.public_key().public_bytes(encoding.Raw, serialization.PublicFormat.Raw).hex().encode() + b"\n"
    paths = name.with_name(name.name + ".key"), name.with_name(name.name + ".pub")
    for path in paths:
        if os.path.lexists(path):
            raise InputError(f"{path} exists and is not replaced: bundles may be signed with it. Choose another name")
    for path, content, mode in zip(paths, (private, public), (0o600, 0o644), strict=True):
        try:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(content)
        except OSError as reason:
            raise InputError(f"{path} can't be written ({reason.strerror}). Choose another folder") from reason
    return paths


def read_private_key(path: Path) -> Ed25519PrivateKey:
    """The key of a ``.key`` file.

    Raises:
        InputError: missing, or no unencrypted ed25519 key in PEM.
    """
    data = read_regular(path, _MOST_BYTES, f"The key {path}", InputError)
    try:
        key = serialization.load_pem_private_key(data, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as reason:
        raise InputError(f"{path} is no private key ({reason}). Give the .key file of 'pocketstep keygen'") from reason
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(f"{path} is a key of another kind. Give the .key file of 'pocketstep keygen'")
    return key


def sign_bundle(path: Path, key: Ed25519PrivateKey, release: int | None = None) -> Bundle:
    """Signs a bundle in place, all of it or nothing; an earlier signature is replaced.

    Args:
        path: a folder or a zip.
        key: the private key.
        release: written into the manifest before it is signed, so that devices refuse lower ones later; None keeps the
            manifest's.

    Returns:
        The signed bundle, opened and checked.

    Raises:
        BundleError: it is not intact, or can't be written.
        InputError: the release is negative.
    """
    bundle = Bundle.open(path)
    if release is not None and release < 0:
        raise InputError(f"release {release} makes no sense; count up from 1")
    folder = path if path.is_dir() else path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        _write_signed(bundle, folder, key, release)
        if folder != path:
            zip_bundle(folder, path)
    finally:
        if folder != path:
            shutil.rmtree(folder, ignore_errors=True)
    return Bundle.open(path, [public_key(key)])


def public_key(key: Ed25519PrivateKey) -> str:
    """Its 64 hex digits."""
    raw = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return raw.hex()


def verify_bundle(path: Path, public: str) -> Bundle:
    """Opens a bundle and checks that a public key signed it.

    Raises:
        BundleError: it is not there or not intact.
        InputError: the key is none.
        CheckFailedError: it is not signed, or by another key.
    """
    parse_key(public)
    Bundle.open(path)
    try:
        return Bundle.open(path, [public])
    except InputError as reason:
        raise CheckFailedError(str(reason)) from reason


def _write_signed(bundle: Bundle, folder: Path, key: Ed25519PrivateKey, release: int | None) -> None:
    manifest: dict[str, Any] = json.loads(bundle.manifest.to_json())
    del manifest["files"]
    if release is not None:
        manifest["release"] = release
    files = {name: bundle.file_path(name) or bundle.read(name) for name in bundle.manifest.files}
    write_bundle(folder, manifest, files, key.sign)
