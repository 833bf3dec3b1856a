"""Whom a device believes: keys that the app pins, and no release older than one it has had."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from pocketstep_device.ed25519 import KEY_BYTES, is_usable_key, verify
from pocketstep_device.errors import BundleError, InputError, StateError
from pocketstep_device.manifest_checks import SIGNATURE_FILE
from pocketstep_device.storage import read_regular, write_atomically
from pocketstep_device.tensors import parse_json

_FLOOR_FILE = "release.json"
_FLOOR_BYTES = 1024


def parse_key(text: str) -> bytes:
    """A public key from its 64 hex digits, as ``pocketstep keygen`` writes them.

    Raises:
        InputError: if it is no usable ed25519 key.
    """
    try:
        key = bytes.fromhex(text.strip())
    except ValueError:
        key = b""
    if not is_usable_key(key):
        raise InputError(
            f"{text.strip()[:80]!r} is no ed25519 public key: give the {2 * KEY_BYTES} hex digits that "
            "'pocketstep keygen' wrote into the file .pub"
        )
    return key


def check_signature(manifest: bytes, signature: bytes | None, trusted_keys: Sequence[str], where: Path) -> str:
    """Finds the trusted key that signed a manifest.

    Args:
        manifest: the bytes of ``manifest.json``.
        signature: those of ``signature.ed25519``; None where there is none.
        trusted_keys: at least one, see ``parse_key``.
        where: the bundle, for messages.

    Returns:
        That key, hex digits.

    Raises:
        BundleError: if none of them did.
        InputError: if there are no keys, or one is no key.
    """
    keys = [parse_key(key) for key in trusted_keys]
    if not keys:
        raise InputError("no trusted key is given, so that no bundle can be trusted; give one, or None to trust all")
    if signature is None:
        raise BundleError(
            f"{where} is not signed (it has no {SIGNATURE_FILE}), and this app trusts signed bundles only. "
            "Sign it with 'pocketstep sign', or fetch it from whom you trust."
        )
    for key in keys:
        if verify(key, signature, manifest):
            return key.hex()
    raise BundleError(
        f"The signature of {where} is not by a key that this app trusts, or the bundle was changed after it was "
        "signed. Fetch it from whom you trust."
    )


class ReleaseFloor:
    """The highest release that was opened with a state folder; lower ones are refused.

    Hold the folder's ``FolderLock`` while using it. Release 0 means not numbered, and writes nothing.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / _FLOOR_FILE

    def check(self, release: int, name: str) -> None:
        """Refuses a release lower than the floor.

        Raises:
            BundleError: it is lower.
            StateError: the file of the floor is unreadable or damaged.
        """
        floor = self._read()
        if release < floor:
            raise BundleError(
                f"The bundle '{name}' is release {release}, and this device has had release {floor}: going back is "
                "refused. Fetch the newest bundle; or, to go back on purpose, use another state folder."
            )

    def keep(self, release: int) -> None:
        """Raises the floor.

        Raises:
            StateError: it can't be written.
        """
        if release > self._read():
            content = {"release": release, "sha256": _digest(release)}
            write_atomically(self._path, json.dumps(content).encode() + b"\n")

    def _read(self) -> int:
        if not self._path.exists() and not self._path.is_symlink():
            return 0
        what = f"The file {self._path}"
        value = parse_json(read_regular(self._path, _FLOOR_BYTES, what), what, StateError)
        release = value.get("release") if isinstance(value, dict) else None
        if type(release) is not int or value != {"release": release, "sha256": _digest(release)}:
            raise StateError(
                f"{what}, which keeps old bundles out, is damaged. Restore it from a copy; remove it only if you know "
                "that your bundle is the newest one."
            )
        return release


def _digest(release: int) -> str:
    return hashlib.sha256(f"pocketstep release {release}".encode()).hexdigest()
