"""Opening a bundle, a folder or a stored zip, with every byte checked; and writing one.

A bundle holds ``manifest.json``, ``manifest.sha256`` (the hex digest of the manifest's bytes and a newline)
and the files that the manifest lists. These digests find damage; who made the bundle is said by
``signature.ed25519``, 64 bytes, a signature of the manifest's bytes and so of every file that it lists.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import IO

from pocketstep_device.bundle_sources import Source, open_source, read_manifest, read_signature
from pocketstep_device.errors import BundleError
from pocketstep_device.manifest import Manifest
from pocketstep_device.tensors import Array, read_tensors
from pocketstep_device.trust import check_signature

_BLOCK = 2**20


class Bundle:
    """A bundle whose every listed file had the right size and digest when it was opened.

    Nothing stays open between calls; each ``read`` checks again.

    Attributes:
        manifest: The parsed manifest.
        digest: SHA-256 of ``manifest.json``, 64 hex digits: the bundle's identity, since it covers all files.
        path: Where the bundle is.
        signed_by: The trusted key (hex digits) that signed it; None where no key was asked for.
    """

    def __init__(
        self, path: Path, source: Source, manifest: Manifest, digest: str, signed_by: str | None = None
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.digest = digest
        self.signed_by = signed_by
        self._source = source

    @classmethod
    def open(cls, path: str | os.PathLike[str], trusted_keys: Sequence[str] | None = None) -> Bundle:
        """Opens a folder or zip and checks all of it, in blocks of 1 MiB.

        Args:
            path: Where it is.
            trusted_keys: ed25519 public keys, 64 hex digits each: one of them must have signed the manifest, which
                is checked before the manifest is parsed. None asks for no signature.

        Raises:
            BundleError: if it is not there, no bundle, cut, changed (the message names the file), holds
                links, was made by a newer pocketstep, or is not signed by a trusted key.
            InputError: if ``trusted_keys`` is empty or holds what is no key.
        """
        path = Path(path)
        source = open_source(path)
        data = read_manifest(source)
        signed_by = None
        if trusted_keys is not None:
            signed_by = check_signature(data, read_signature(source), trusted_keys, path)
        manifest = Manifest.parse(data)
        source.check_layout(manifest)
        bundle = cls(path, source, manifest, hashlib.sha256(data).hexdigest(), signed_by)
        for name in manifest.files:
            bundle.copy(name, None)
        return bundle

    def read(self, name: str) -> bytes:
        """The content of one file that the manifest lists, checked against its digest once more.

        Raises:
            BundleError: if the manifest does not list it, or it changed.
        """
        content = BytesIO()
        self.copy(name, content)
        return content.getvalue()

    def copy(self, name: str, target: IO[bytes] | None) -> None:
        """Streams a listed file through its checks, into ``target`` if there is one.

        Raises:
            BundleError: as :meth:`read`; ``target`` has wrong bytes then.
        """
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
