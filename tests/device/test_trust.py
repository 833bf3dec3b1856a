from __future__ import annotations

import hashlib
import random
from pathlib import Path
from types import SimpleNamespace

import pytest
import toy
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fakes import fake_bundle, fake_files, fake_manifest

from pocketstep_device.bundle import Bundle
from pocketstep_device.bundle_writer import write_bundle, zip_bundle
from pocketstep_device.ed25519 import _ORDER, _P, is_usable_key, verify
from pocketstep_device.errors import BundleError, InputError, StateError
from pocketstep_device.learner import Learner
from pocketstep_device.runtimes import executorch
from pocketstep_device.runtimes.tflite_file import TfliteFile
from pocketstep_device.trust import ReleaseFloor, parse_key


def key_pair(seed: int) -> tuple[Ed25519PrivateKey, bytes]:
    private = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(str(seed).encode()).digest())
    raw = private.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return private, raw


PRIVATE, PUBLIC = key_pair(1)
OTHER_PRIVATE, OTHER_PUBLIC = key_pair(2)
KEY, OTHER_KEY = PUBLIC.hex(), OTHER_PUBLIC.hex()

RFC_8032 = [
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24"
        "655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aee"
        "b00d291612bb0c00",
    ),
]
"""Section 7.1, tests 1 and 2: public key, message, signature."""

ORDER_8 = "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"


@pytest.mark.parametrize(("key", "message", "signature"), RFC_8032)
def test_vectors_of_the_standard(key: str, message: str, signature: str) -> None:
    assert verify(bytes.fromhex(key), bytes.fromhex(signature), bytes.fromhex(message))
    assert not verify(bytes.fromhex(key), bytes.fromhex(signature), bytes.fromhex(message) + b"\0")


def test_agrees_with_the_library_that_signs() -> None:
    chance = random.Random(0)
    for seed in range(10, 22):
        private, public = key_pair(seed)
        message = chance.randbytes(chance.choice([0, 1, 100, 5000]))
        signature = private.sign(message)
        assert verify(public, signature, message)
        bad = bytearray(signature)
        bad[chance.randrange(64)] ^= 1 << chance.randrange(8)
        assert not verify(public, bytes(bad), message)
        assert not verify(OTHER_PUBLIC, signature, message)
        assert not verify(public, signature, message + b"x")


def test_second_spellings_of_a_signature_are_refused() -> None:
    """A scalar raised by the group's order, and sizes that are none."""
    signature = PRIVATE.sign(b"message")
    scalar = int.from_bytes(signature[32:], "little") + _ORDER
    assert not verify(PUBLIC, signature[:32] + scalar.to_bytes(32, "little"), b"message")
    for wrong in (b"", signature[:-1], signature + b"\0"):
        assert not verify(PUBLIC, wrong, b"message")
    for key in (b"", PUBLIC[:-1], PUBLIC + b"\0"):
        assert not verify(key, signature, b"message")


def test_keys_that_anybody_can_sign_for_are_refused() -> None:
    """Points of small order, and encodings that are not the shortest: with y = 1, any message has a forgery."""
    order_8 = int.from_bytes(bytes.fromhex(ORDER_8), "little")
    small = [0, 1, _P - 1, order_8, _P - order_8]
    for y in [*small, _P, _P + 1, 2**255 - 1]:
        for sign in (0, 1 << 255):
            key = ((y | sign) % 2**256).to_bytes(32, "little")
            assert not is_usable_key(key) or y not in small
            assert not verify(key, (1).to_bytes(32, "little") + bytes(32), b"message")
    assert not is_usable_key((2).to_bytes(32, "little"))  # no point has this height


@pytest.mark.parametrize("text", ["", "zz", "00" * 32, "ff" * 32, KEY[:-2], KEY + "00", "é" * 64])
def test_what_is_no_key(text: str) -> None:
    with pytest.raises(InputError, match="is no ed25519 public key"):
        parse_key(text)
    assert parse_key(f"  {KEY.upper()}\n") == PUBLIC


@pytest.fixture
def signed(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "signed", fake_manifest(), fake_files(), PRIVATE.sign).path


def test_signed_bundles(signed: Path, tmp_path: Path) -> None:
    zip_bundle(signed, tmp_path / "signed.zip")
    for path in (signed, tmp_path / "signed.zip"):
        assert Bundle.open(path).signed_by is None
        assert Bundle.open(path, [KEY]).signed_by == KEY
        assert Bundle.open(path, [OTHER_KEY, KEY]).signed_by == KEY
        with pytest.raises(BundleError, match="not by a key that this app trusts"):
            Bundle.open(path, [OTHER_KEY])
        with pytest.raises(InputError, match="no trusted key is given"):
            Bundle.open(path, [])


def test_unsigned_and_resigned_bundles(signed: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not signed"):
        Bundle.open(fake_bundle(tmp_path / "plain").path, [KEY])
    signature = signed / "signature.ed25519"
    good = signature.read_bytes()
    signature.write_bytes(OTHER_PRIVATE.sign((signed / "manifest.json").read_bytes()))
    with pytest.raises(BundleError, match="not by a key"):
        Bundle.open(signed, [KEY])
    for wrong in (good[:-1], good + b"\n", b""):
        signature.write_bytes(wrong)
        with pytest.raises(BundleError, match="a signature has 64"):
            Bundle.open(signed, [KEY])
    signature.unlink()
    signature.symlink_to("/dev/zero")
    with pytest.raises(BundleError, match="link"):
        Bundle.open(signed, [KEY])


def test_what_an_attacker_repairs_is_refused_before_it_is_parsed(signed: Path) -> None:
    """The digest line is right again, the manifest is not even JSON: the signature is what it fails on."""
    (signed / "manifest.json").write_bytes(b"{")
    (signed / "manifest.sha256").write_text(hashlib.sha256(b"{").hexdigest() + "\n")
    with pytest.raises(BundleError, match="signature of"):
        Bundle.open(signed, [KEY])


def test_a_litert_program_changed_after_it_was_checked(signed: Path) -> None:
    """Interpreters map a checked copy, not the bundle's file."""
    file = signed / "program.tflite"
    content, bundle = file.read_bytes(), Bundle.open(signed)
    copy = TfliteFile(bundle, file.name)
    file.write_bytes(content[::-1])
    assert copy._file is not None
    copy._file.seek(0)
    assert copy._file.read() == content
    with pytest.raises(BundleError, match="its digest differs"):
        TfliteFile(bundle, file.name)


def test_an_executorch_program_changed_after_it_was_checked(signed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With pinned keys ExecuTorch gets the bytes that were checked, else the name of the file, which it maps."""
    loaded: list[object] = []

    def load(source: object, program_verification: object) -> SimpleNamespace:
        loaded.append(source)
        return SimpleNamespace(load_method=None)

    binding = SimpleNamespace(
        _unsafe_reset_threadpool=lambda threads: None, Verification=SimpleNamespace(InternalConsistency=1),
        _load_program=load, _load_program_from_buffer=load,
    )  # fmt: skip
    torch = SimpleNamespace(from_numpy=None, set_num_threads=lambda threads: None)
    monkeypatch.setattr(executorch, "_binding", lambda: (torch, binding))
    file = signed / "program.tflite"  # its content does not matter here
    content, bundle = file.read_bytes(), Bundle.open(signed, [KEY])
    executorch.load(bundle, file.name, 1)
    executorch.load(Bundle.open(signed), file.name, 1)
    assert loaded == [content, str(file)]
    file.write_bytes(content[::-1])
    with pytest.raises(BundleError, match="its digest differs"):
        executorch.load(bundle, file.name, 1)
    assert len(loaded) == 2


def test_a_bundle_cannot_list_its_own_signature(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"signature\.ed25519"):
        write_bundle(tmp_path / "b", fake_manifest(), {**fake_files(), "signature.ed25519": b"0" * 64})


# Releases


def test_older_releases_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even before anything was learned, and by whatever path the older bundle comes."""
    toy.install(monkeypatch)
    bundles = {n: toy.toy_bundle(tmp_path / f"{n}.bundle", release=n) for n in (0, 3, 5)}
    state = tmp_path / "state"
    Learner.open(bundles[3], state).close()
    Learner.open(bundles[5], state).close()
    for older in (0, 3):
        with pytest.raises(BundleError, match=f"is release {older}, and this device has had release 5"):
            Learner.open(bundles[older], state)
    Learner.open(bundles[5], state).close()
    Learner.open(bundles[3], tmp_path / "another").close()


def test_a_bundle_that_could_not_be_opened_raises_no_floor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy.install(monkeypatch)
    old, new = (toy.toy_bundle(tmp_path / f"{n}.bundle", release=n) for n in (1, 2))
    with Learner.open(old, tmp_path / "state") as learner:
        learner.add_class("x")
    with pytest.raises(StateError, match="belongs to another bundle"):
        Learner.open(new, tmp_path / "state")
    assert Learner.open(old, tmp_path / "state").classes[-1] == "x"


def test_the_floor_is_checked(tmp_path: Path) -> None:
    floor = ReleaseFloor(tmp_path)
    floor.check(0, "x")
    floor.keep(0)
    assert list(tmp_path.iterdir()) == []
    floor.keep(7)
    floor.keep(4)
    floor.check(7, "x")
    with pytest.raises(BundleError, match="release 6"):
        floor.check(6, "x")
    path = tmp_path / "release.json"
    good = path.read_bytes()
    for wrong in (b"", b"{}", b"[]", good.replace(b"7", b"1"), good + b"{", b" " * 2000):
        path.write_bytes(wrong)
        with pytest.raises(StateError):
            floor.check(9, "x")
