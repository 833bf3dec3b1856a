"""``pocketstep keygen``, ``sign`` and ``verify``, and what devices make of it."""

from __future__ import annotations

import hashlib
import json
import stat
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "device"))

import toy

from pocketstep.cli import app
from pocketstep.signing import generate_key, public_key, read_private_key, sign_bundle, verify_bundle
from pocketstep_device.bundle import Bundle
from pocketstep_device.bundle_writer import zip_bundle
from pocketstep_device.errors import BundleError, CheckFailedError, InputError, PocketstepError


def run(*arguments: str | Path) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(done.exception, PocketstepError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return toy.toy_bundle(tmp_path / "toy.bundle")


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return generate_key(tmp_path / "mine")


def test_a_key_pair(keys: tuple[Path, Path]) -> None:
    private, public = keys
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert private.read_text().startswith("-----BEGIN PRIVATE KEY-----")
    assert public.read_text().strip() == public_key(read_private_key(private))
    with pytest.raises(InputError, match="exists and is not replaced"):
        generate_key(private.with_suffix(""))
    with pytest.raises(InputError, match="can't be written"):
        generate_key(private.parent / "gone" / "key")


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_sign_and_verify(bundle: Path, keys: tuple[Path, Path], tmp_path: Path, packed: bool) -> None:
    if packed:
        zip_bundle(bundle, tmp_path / "toy.zip")
        bundle = tmp_path / "toy.zip"
    private, public = keys
    before = {name: Bundle.open(bundle).read(name) for name in Bundle.open(bundle).manifest.files}
    with pytest.raises(CheckFailedError, match="is not signed"):
        run("verify", bundle, "--key", public)
    assert "release 7, signed by" in run("sign", bundle, "--key", private, "--release", "7")
    assert "release 7" in run("verify", bundle, "--key", public)
    assert "release 7" in run("verify", bundle, "--key", public.read_text().strip())
    signed = Bundle.open(bundle, [public.read_text()])
    assert {name: signed.read(name) for name in signed.manifest.files} == before
    _, other = generate_key(tmp_path / "other")
    with pytest.raises(CheckFailedError, match="not by a key"):
        run("verify", bundle, "--key", other)
    run("sign", bundle, "--key", tmp_path / "other.key")  # again, by another, the release as it was
    assert "release 7" in run("verify", bundle, "--key", other)
    assert {path.name for path in tmp_path.iterdir() if path.name.startswith(".")} == set()


def test_what_cannot_be_signed(bundle: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    private, public = keys
    manifest = (bundle / "manifest.json").read_bytes()
    for key in (public, tmp_path / "gone.key", bundle):
        with pytest.raises(InputError, match="key"):
            run("sign", bundle, "--key", key)
    with pytest.raises(InputError, match="release -1"):
        run("sign", bundle, "--key", private, "--release", "-1")
    with pytest.raises(BundleError, match=r"manifest's release"):
        run("sign", bundle, "--key", private, "--release", str(2**60))
    assert (bundle / "manifest.json").read_bytes() == manifest
    with pytest.raises(InputError, match="no ed25519 public key"):
        run("verify", bundle, "--key", "abc")
    (bundle / "program.tflite").write_bytes(b"other")
    with pytest.raises(BundleError, match="was cut or changed"):
        run("sign", bundle, "--key", private)


def test_a_signature_ends_with_the_first_changed_byte(bundle: Path, keys: tuple[Path, Path]) -> None:
    private, public = keys
    sign_bundle(bundle, read_private_key(private), 1)
    text = (bundle / "manifest.json").read_bytes()
    raised = json.loads(text) | {"release": 2}
    changed = json.dumps(raised).encode()
    (bundle / "manifest.json").write_bytes(changed)
    (bundle / "manifest.sha256").write_text(hashlib.sha256(changed).hexdigest() + "\n")
    assert Bundle.open(bundle).manifest.release == 2  # an intact bundle, by its digests
    with pytest.raises(CheckFailedError, match="was changed after it was signed"):
        verify_bundle(bundle, public.read_text())
