"""Opens bundles and states that were changed on purpose: a million ways, each repeatable.

    python tests/device/fuzz.py --count 1000000 --seed 1 [--bundle DIR]

Every mutation begins with a good bundle (of the toy runtime; or DIR's manifest, state and replay set, its programs
replaced by a few bytes), changes it with knowledge of its structure, mostly repairs the digests as an attacker would,
and opens it. The outcome must be an error of ours, or a bundle that keeps every promise; never another exception, more
than a second, more than 64 MiB, or, with a trusted key, anything but what was signed. Prints one JSON object;
``--only N`` repeats one mutation.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import marshal
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import mutations
import numpy as np
import toy
from states import digest

from pocketstep_device.adoption import adopt
from pocketstep_device.budget import Budget
from pocketstep_device.bundle import Bundle
from pocketstep_device.bundle_writer import zip_bundle
from pocketstep_device.errors import PocketstepError
from pocketstep_device.learner import Learner
from pocketstep_device.shipped import cloud_samples, initial_snapshot
from pocketstep_device.state import _digest
from pocketstep_device.tensors import read_tensors, write_tensors

Files = dict[str, bytes]
MOST_SECONDS, MOST_MB = 1.0, 64
MOST_ADDRESSES = 4 * 2**30
PROGRESS = 10_000
KINDS = ("manifest", "manifest", "manifest", "tensors", "tensors", "bytes", "zip", "zip", "state", "signed")


OPERATIONS: tuple[Callable[[Learner], object], ...] = (
    lambda learner: learner.observe(toy.images("dark", 6, seed=1), "dark"),
    lambda learner: learner.add_class("dots"),
    lambda learner: learner.update(method="closed-form"),
    lambda learner: learner.rollback(),
    lambda learner: learner.forget("stripes"),
)
"""What is done with a state that opened."""


class Finding(Exception):
    """Something that must not happen."""


class Fuzzer:
    """Mutates one good bundle, and a state of it where it is a toy's."""

    def __init__(self, folder: Path, seed: int, bundle: Path | None) -> None:
        self._seed, self._target, self._is_toy = seed, folder / "target", bundle is None
        good = (
            toy.toy_bundle(folder / "good.bundle", per_class=4) if bundle is None else _without_programs(bundle, folder)
        )
        self._files = {p.relative_to(good).as_posix(): p.read_bytes() for p in good.rglob("*") if p.is_file()}
        self._tree = marshal.dumps(json.loads(self._files["manifest.json"]))
        zip_bundle(good, folder / "good.zip")
        self._packed = (folder / "good.zip").read_bytes()
        self._digest = Bundle.open(good).digest
        self._saved: Files = {}
        if self._is_toy:
            with Learner.open(good, folder / "good.state") as learner:
                learner.add_class("stripes")
                learner.observe(toy.images("stripes", 6), "stripes")
                learner.update(method="closed-form")
                learner.observe(toy.images("stripes", 5, seed=1), "stripes")
            self._saved = {p.name: p.read_bytes() for p in (folder / "good.state").iterdir() if p.name != ".lock"}
        self._good = good
        self._others = [
            toy.toy_bundle(folder / f"{name}.bundle", per_class=4, name=name, suffix=suffix)
            for name, suffix in (("alike", 1), ("another", 2))
        ]
        self._key, self._signature = _signed(self._files["manifest.json"])

    def run(self, index: int) -> str:
        """One mutation; gives what became of it.

        Raises:
            Finding: an outcome that must not be.
        """
        chance = random.Random(f"{self._seed}:{index}")
        kind = chance.choice(KINDS)
        if kind == "state" and not self._is_toy:
            kind = "manifest"
        shutil.rmtree(self._target, ignore_errors=True)
        self._target.mkdir()
        attempt: Callable[[], str] = getattr(self, f"_{kind}")(chance)
        before, began = _peak_mb(), time.process_time()
        try:
            outcome = attempt()
        except PocketstepError as error:
            outcome = "refused"
            if not str(error).strip():
                raise Finding(f"{kind}: an error without a text") from error
        except Finding:
            raise
        except BaseException as error:
            raise Finding(f"{kind}: {type(error).__name__}: {error}") from error
        seconds, grown = time.process_time() - began, _peak_mb() - before
        if seconds > MOST_SECONDS or grown > MOST_MB:
            raise Finding(f"{kind}: {seconds:.2f} s and {grown:.0f} MiB")
        return f"{kind}: {outcome}"

    def _fresh_tree(self) -> Any:
        """The good manifest, its own copy; quicker than a deep one."""
        return marshal.loads(self._tree)

    def _manifest(self, chance: random.Random) -> Callable[[], str]:
        tree = self._fresh_tree()
        for _ in range(chance.choice([1, 1, 1, 2, 4])):
            tree = mutations.mutate_json(tree, chance)
        return self._folder(
            {**self._files, "manifest.json": mutations.json_bytes(tree, chance)}, chance.random() < 0.97
        )

    def _tensors(self, chance: random.Random) -> Callable[[], str]:
        name = chance.choice(["state.safetensors", "replay.safetensors"])
        files = {**self._files, name: mutations.mutate_tensors(self._files[name], chance)}
        tree = self._fresh_tree()
        if repaired := chance.random() < 0.97:
            tree["files"][name] = {"sha256": hashlib.sha256(files[name]).hexdigest(), "bytes": len(files[name])}
        return self._folder({**files, "manifest.json": json.dumps(tree).encode()}, True, changed=repaired)

    def _bytes(self, chance: random.Random) -> Callable[[], str]:
        name = chance.choice(sorted(self._files))
        return self._folder({**self._files, name: mutations.mutate_bytes(self._files[name], chance)}, False)

    def _folder(self, files: Files, repaired: bool, changed: bool = True) -> Callable[[], str]:
        """Writes a folder; without repaired digests only what is not changed at all may be accepted."""
        if repaired:
            line = hashlib.sha256(files["manifest.json"]).hexdigest().encode() + b"\n"
            files = {**files, "manifest.sha256": line}
        for name, content in files.items():
            path = self._target / "x.bundle" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return lambda: self._open(self._target / "x.bundle", repaired and changed)

    def _zip(self, chance: random.Random) -> Callable[[], str]:
        path = self._target / "x.zip"
        path.write_bytes(mutations.mutate_zip(self._packed, chance))
        return lambda: self._open(path, False)

    def _open(self, path: Path, may_differ: bool) -> str:
        """Opens a bundle as a device does, and holds it to what it promises."""
        bundle = Bundle.open(path)
        content = {name: bundle.read(name) for name in bundle.manifest.files}
        same = all(self._files.get(name) == data for name, data in content.items())
        if not may_differ and not (same and bundle.digest == self._digest):
            raise Finding("a change was accepted that no digest was repaired for")
        snapshot, samples = initial_snapshot(bundle), cloud_samples(bundle)
        for spec in bundle.manifest.state:
            tensor = snapshot.tensors[spec.name]
            if tensor.shape != tuple(spec.shape) or tensor.dtype != np.float32 or not np.isfinite(tensor).all():
                raise Finding(f"a state that is not what the manifest says: {spec.name}")
        slots = bundle.manifest.task.slots
        if len(samples) and not 0 <= samples.labels.min() <= samples.labels.max() < slots:
            raise Finding("labels outside of the slots")
        if self._is_toy:
            with Learner.open(path, self._target / "x.state") as learner:
                found = learner.classify(np.zeros((1, *bundle.manifest.task.input.shape), np.uint8))
                if not np.isfinite(found.probabilities).all():
                    raise Finding("probabilities that are not finite")
                learner.observe(toy.images(learner.classes[0], 5), learner.classes[0])
                learner.update(Budget(seconds=0.1), method=next(iter(bundle.manifest.schedules), ""))
        return "accepted, the same" if same and bundle.digest == self._digest else "accepted, harmless"

    def _state(self, chance: random.Random) -> Callable[[], str]:
        files = dict(self._saved)
        name = chance.choice(sorted(files))
        if chance.random() < 0.3:
            files[name] = mutations.mutate_bytes(files[name], chance)
        elif name.startswith("snapshot"):
            files[name] = _mutated_snapshot(files[name], chance)
        else:
            files[name] = mutations.mutate_tensors(files[name], chance)
        for key, content in files.items():
            (self._target / key).write_bytes(content)
        if chance.random() < 0.25:
            return lambda: self._adopt_state(chance.choice(self._others))
        return lambda: self._use_state(chance.choice(OPERATIONS))

    def _use_state(self, operation: Callable[[Learner], object]) -> str:
        """A state that opens must open after any operation too, and be what the learner held."""
        with Learner.open(self._good, self._target) as learner:
            found = learner.classify(toy.images("dark", 2))
            if not np.isfinite(found.probabilities).all() or len(set(learner.classes)) != len(learner.classes):
                raise Finding("a state that can't be")
            outcome = "accepted, with a note" if learner.notes else "accepted"
            with suppress(PocketstepError):
                operation(learner)
            expected = digest(learner)
        self._open_again(self._good, expected)
        return outcome

    def _adopt_state(self, bundle: Path) -> str:
        """A state that was adopted must open with its new bundle."""
        adoption = adopt(bundle, self._target, method="closed-form")
        if adoption.accepted:
            self._open_again(bundle, None)
        return f"adopted: {adoption.how}"

    def _open_again(self, bundle: Path, expected: str | None) -> None:
        try:
            with Learner.open(bundle, self._target) as learner:
                if expected is not None and digest(learner) != expected:
                    raise Finding("a state that is another one when it is opened again")
        except PocketstepError as error:
            raise Finding(f"a state that was used and does not open any more: {error}") from error

    def _signed(self, chance: random.Random) -> Callable[[], str]:
        """With a trusted key: only what was signed, whatever else is repaired."""
        files, signature = dict(self._files), self._signature
        if chance.random() < 0.5:
            tree = mutations.mutate_json(self._fresh_tree(), chance)
            files["manifest.json"] = mutations.json_bytes(tree, chance)
        else:
            signature = mutations.mutate_bytes(signature, chance)
        untouched = files["manifest.json"] == self._files["manifest.json"] and signature == self._signature
        self._folder({**files, "signature.ed25519": signature}, True)

        def attempt() -> str:
            Bundle.open(self._target / "x.bundle", [self._key])
            if not untouched:
                raise Finding("a bundle was trusted that was not signed")
            return "accepted, the same"

        return attempt


def _mutated_snapshot(data: bytes, chance: random.Random) -> bytes:
    """A snapshot with other content and a right digest."""
    tensors, metadata = read_tensors(data, "snapshot")
    del metadata["sha256"]
    if chance.random() < 0.5:
        info = mutations.mutate_json(json.loads(metadata["info"]), chance)
        metadata["info"] = mutations.json_bytes(info, chance).decode("utf-8", "replace")
    elif chance.random() < 0.5:
        metadata[chance.choice(sorted(metadata))] = str(mutations.hostile(chance))
    else:
        name = chance.choice(sorted(tensors))
        array = tensors.pop(name)
        if chance.random() < 0.7:
            tensors[name] = chance.choice(
                [
                    array[..., :0],
                    array.astype(np.float64),
                    array.astype(np.int8),
                    np.concatenate([array, array]),
                    array * 0,
                ]
            )
    try:
        return write_tensors(tensors, {**metadata, "sha256": _digest(tensors, metadata)})
    except PocketstepError:
        return data


def _without_programs(bundle: Path, folder: Path) -> Path:
    """A real bundle's manifest, state and replay set; its programs and trace are a few bytes."""
    from pocketstep_device.bundle_writer import write_bundle

    opened = Bundle.open(bundle)
    manifest = json.loads(opened.manifest.to_json())
    del manifest["files"]
    kept = ("state.safetensors", "replay.safetensors")
    files = {n: opened.read(n) if n in kept else b"no program" for n in opened.manifest.files}
    return write_bundle(folder / "good.bundle", manifest, files).path


def _signed(manifest: bytes) -> tuple[str, bytes]:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    raw = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return raw.hex(), key.sign(manifest)


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def fuzz(count: int, seed: int, bundle: Path | None = None, start: int = 0) -> dict[str, Any]:
    """``count`` mutations; gives outcomes by kind, and findings with their index."""
    memory = Path("/dev/shm")
    base = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    outcomes, findings, began = Counter[str](), dict[int, str](), time.monotonic()
    try:
        fuzzer = Fuzzer(base, seed, bundle)
        for index in range(start, start + count):
            try:
                outcomes[fuzzer.run(index)] += 1
            except Finding as finding:
                findings[index] = str(finding)
                sys.stderr.write(f"{index}: {finding}\n")
            if (index + 1 - start) % PROGRESS == 0:
                sys.stderr.write(f"{index + 1 - start} mutations, {time.monotonic() - began:.0f} s\n")
    finally:
        shutil.rmtree(base, ignore_errors=True)
    return {
        "mutations": count, "seed": seed, "findings": findings, "outcomes": dict(sorted(outcomes.items())),
        "seconds": round(time.monotonic() - began, 1), "peak_mb": round(_peak_mb()),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--start", type=int, default=0, help="index of the first mutation")
    parser.add_argument("--only", type=int, help="one mutation, by its index")
    parser.add_argument("--bundle", type=Path, help="a real bundle to begin with")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MOST_ADDRESSES, MOST_ADDRESSES))
    toy.install()
    if options.only is not None:
        result = fuzz(1, options.seed, options.bundle, options.only)
    else:
        result = fuzz(options.count, options.seed, options.bundle, options.start)
    json.dump(result, sys.stdout, indent=1)
    sys.stdout.write("\n")
    return 1 if result["findings"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
