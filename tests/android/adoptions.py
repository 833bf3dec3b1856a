"""What Python's ``adopt`` makes of a state under several newer bundles, for Kotlin to make the same of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from variants import write_variant

from pocketstep_device import Learner, adopt
from pocketstep_device.bundle import Bundle
from pocketstep_device.errors import PocketstepError
from pocketstep_device.state import StateStore

NEW = "9"


def write_adoptions(bundle: Path, out: Path, runtime: str) -> None:
    """For each case ``CASE/bundle`` is its bundle, ``before`` and ``after`` the state, ``verdict`` what Python said.

    Args:
        bundle: the one that the states were learned with.
        out: the exchange; ``before`` and ``after-closed-form`` of the runtime lie there.
        runtime: its name.
    """
    known = Bundle.open(bundle).manifest.task.classes
    slots = Bundle.open(bundle).manifest.task.slots
    bundles = {
        "newer": lambda path: write_variant(bundle, path, release=2, name="newer"),
        "taught": lambda path: write_variant(bundle, path, release=2, classes=[*known, NEW]),
        "without": lambda path: write_variant(bundle, path, release=2, classes=[*known[:-1], "eight"]),
        "full": lambda path: write_variant(
            bundle, path, classes=[*known, *(f"c{i}" for i in range(slots - len(known)))]
        ),
    }
    for name, make in bundles.items():
        if not (out / "bundles" / name).exists():
            make(out / "bundles" / name)
    learned, observed = out / runtime / "after-closed-form", out / runtime / "before"
    cases: dict[str, tuple[str, Path | None, Callable[[Path], None] | None]] = {
        "agrees": ("newer", learned, None),
        "replays": ("taught", learned, None),
        "observed-only": ("newer", observed, None),
        "nothing-there": ("newer", None, None),
        "lost-class": ("without", learned, None),
        "no-slots": ("full", learned, None),
        "lower-release": ("newer", learned, lambda state: raise_release(bundle, state)),
        "other-layers": ("taught", learned, lambda state: other_fingerprint(bundle, state)),
        "damaged": ("newer", learned, damage),
        "samples-gone": ("taught", learned, lambda state: [path.unlink() for path in state.glob("latents-*")] and None),
    }
    for case, (name, state, change) in cases.items():
        folder = out / runtime / "adopt" / case
        before, after = folder / "before", folder / "after"
        before.mkdir(parents=True)
        if state:
            shutil.copytree(state, before, dirs_exist_ok=True)
        if change:
            change(before)
        shutil.copytree(before, after)
        (folder / "verdict.properties").write_text(
            "".join(
                f"{k}={v}\n" for k, v in {"bundle": name, **verdict(out / "bundles" / name, after, runtime)}.items()
            )
        )


def verdict(bundle: Path, state: Path, runtime: str) -> dict[str, object]:
    """The facts of an adoption, or its error."""
    try:
        found = adopt(bundle, state, runtime, method="closed-form")
    except PocketstepError as error:
        return {"error": type(error).__name__, "message": error}
    facts = {"accepted": found.accepted, "how": found.how, "classes": ",".join(found.classes), "samples": found.samples}
    return {**facts, "reason": found.reason, "notes": len(found.notes)}


def raise_release(bundle: Path, state: Path) -> None:
    """As if a bundle of release 3 had been opened."""
    later = write_variant(bundle, state.parent / "later.bundle", release=3)
    shutil.rmtree(state / "elsewhere", ignore_errors=True)
    with Learner.open(later, state.parent / "elsewhere"):
        pass
    shutil.copy(state.parent / "elsewhere" / "release.json", state)
    shutil.rmtree(state.parent / "elsewhere")
    shutil.rmtree(later)


def other_fingerprint(bundle: Path, state: Path) -> None:
    """As if other frozen layers had encoded the samples."""
    store = StateStore(state, Bundle.open(bundle).digest)
    newest = store.load()
    assert newest is not None
    name = "fingerprint.latents"
    other = (-newest.tensors[name].astype(np.int16)).clip(-128, 127).astype(np.int8)
    store.save({**newest.tensors, name: other}, newest.info)


def damage(state: Path) -> None:
    """Cuts the newest snapshot, so that an older one counts."""
    newest = max(state.glob("snapshot-*"))
    newest.write_bytes(newest.read_bytes()[:-5])
