from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import toy

from pocketstep_device import adopt as public_adopt
from pocketstep_device.adoption import Adoption, adopt
from pocketstep_device.budget import Budget
from pocketstep_device.errors import BundleError, CheckFailedError, StateError
from pocketstep_device.learner import Learner

pytestmark = pytest.mark.usefixtures("toys")

NEW = "stripes"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return toy.toy_bundle(tmp_path / "old.bundle", release=1)


@pytest.fixture
def state(old: Path, tmp_path: Path) -> Path:
    """A class of the device's own, learned, and more images observed."""
    with Learner.open(old, tmp_path / "state") as learner:
        learner.add_class(NEW)
        learner.observe(toy.images(NEW, 30), NEW)
        assert learner.update().accepted
        learner.observe(toy.images("dark", 6, seed=3), "dark")
    return tmp_path / "state"


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != ".lock"}


def accuracy(bundle: Path, state: Path, name: str) -> float:
    with Learner.open(bundle, state) as learner:
        return float(np.mean([label == name for label in learner.classify(toy.images(name, 40, seed=8)).labels]))


def test_plans_that_agree(old: Path, state: Path, tmp_path: Path) -> None:
    """Another name, replay set and release, the same network: what the device says does not change by a digit."""
    probe = np.concatenate([toy.images(name, 5, seed=4) for name in ("dark", "bright", NEW)])
    with Learner.open(old, state) as learner:
        before, status = learner.classify(probe), learner.status()
    new = toy.toy_bundle(tmp_path / "new.bundle", release=2, name="toy 2", per_class=20)
    adoption = adopt(new, state)
    assert adoption.accepted
    assert (adoption.how, adoption.classes, adoption.samples) == ("state", (NEW,), 36)
    with Learner.open(new, state) as learner:
        after = learner.classify(probe)
        np.testing.assert_array_equal(after.probabilities, before.probabilities)
        assert after.classes == before.classes
        assert learner.status()["stored_samples"] == status["stored_samples"]
        assert learner.status()["pending_samples"] == 6
        with pytest.raises(StateError, match="no update to roll back"):  # not past the bundle
            learner.rollback()
        assert learner.update().accepted
    with pytest.raises(BundleError, match="this device has had release 2"):
        Learner.open(old, state)
    assert adopt(new, state).how == "nothing"


@pytest.mark.parametrize(
    "options",
    [
        {"suffix": 2},
        {"slots": 9},
        {"classes": ("dark", "bright", "dots")},
        {"classes": ("bright", "dark")},
        {"classes": ("dark", "bright", NEW)},
    ],
    ids=lambda options: next(iter(options)),
)
def test_plans_that_differ(state: Path, tmp_path: Path, options: dict[str, object]) -> None:
    """Another network behind the cut, more slots, other classes of the cloud: the stored samples teach it."""
    new = toy.toy_bundle(tmp_path / "new.bundle", release=2, **options)  # type: ignore[arg-type]
    adoption = adopt(new, state, budget=Budget(seconds=60))
    assert adoption.accepted, adoption.reason
    assert (adoption.how, adoption.samples) == ("replay", 36)
    assert adoption.update is not None
    with Learner.open(new, state) as learner:
        known = options.get("classes", toy.CLASSES)
        assert learner.classes == [*known, *(() if NEW in known else (NEW,))]  # type: ignore[misc]
        assert learner.status()["pending_samples"] == 0
        assert learner.status()["stored_samples"][NEW] == 30
    for name in ("dark", "bright", NEW):
        assert accuracy(new, state, name) >= 0.9


def test_other_frozen_layers_are_refused(old: Path, state: Path, tmp_path: Path) -> None:
    before = content(state)
    new = toy.toy_bundle(tmp_path / "new.bundle", release=2, encoder=2)
    with pytest.raises(StateError, match="images are never stored, so nothing can be replayed; nothing was changed"):
        adopt(new, state)
    assert content(state) == before
    assert accuracy(old, state, NEW) >= 0.9


def test_a_lower_release_is_refused(old: Path, state: Path, tmp_path: Path) -> None:
    before = content(state)
    older = toy.toy_bundle(tmp_path / "older.bundle", release=0)
    with pytest.raises(BundleError, match="going back is refused"):
        adopt(older, state)
    assert content(state) == before


def test_too_few_slots_are_refused(state: Path, tmp_path: Path) -> None:
    before = content(state)
    new = toy.toy_bundle(tmp_path / "new.bundle", release=2, slots=2)
    with pytest.raises(StateError, match=r"has 1 classes of its own.* 0 spare slots; nothing was changed"):
        adopt(new, state)
    assert content(state) == before


def test_what_cannot_be_learned_again_is_not_given_up(old: Path, state: Path, tmp_path: Path) -> None:
    """The samples of a learned class are gone: another plan can't know it, the same plan can."""
    for path in state.glob("latents-*"):
        path.unlink()
    other = toy.toy_bundle(tmp_path / "other.bundle", release=2, suffix=2)
    before = content(state)
    with pytest.raises(StateError, match=f"no samples of '{NEW}' are stored"):
        adopt(other, state)
    assert content(state) == before
    adoption = adopt(toy.toy_bundle(tmp_path / "same.bundle", release=3), state)
    assert adoption.how == "state"
    assert accuracy(tmp_path / "same.bundle", state, NEW) >= 0.9


def test_an_update_that_is_refused_adopts_nothing(old: Path, state: Path, tmp_path: Path) -> None:
    """Too little memory before it begins; a check that fails at the end."""
    new = toy.toy_bundle(tmp_path / "new.bundle", release=2, suffix=2)
    before = content(state)
    with pytest.raises(CheckFailedError, match="was not begun"):
        adopt(new, state, budget=Budget(memory_mb=0.5))
    with Learner.open(old, state) as learner:
        learner._collect_garbage()
    assert content(state) == before
    assert accuracy(old, state, NEW) >= 0.9


def test_a_rejected_update_adopts_nothing(tmp_path: Path) -> None:
    """What the device calls 'dark' is bright: the new bundle, which knows better, refuses to learn it."""
    old = toy.toy_bundle(tmp_path / "old.bundle")
    state = tmp_path / "state"
    with Learner.open(old, state) as learner:
        learner.observe(toy.images("bright", 200), "dark")
        learner.observe(toy.images("dark", 200), "bright")
        assert learner.update(method="closed-form").accepted  # this schedule accepts anything
    before = content(state)
    adoption = adopt(toy.toy_bundle(tmp_path / "new.bundle", suffix=2), state)
    assert not adoption.accepted
    assert "could not learn the stored samples" in adoption.reason
    assert content(state) == before
    assert Learner.open(old, state).classes == ["dark", "bright"]


def test_nothing_learned_yet(tmp_path: Path) -> None:
    """Observed images and names come along, to be learned; the state is the new bundle's own."""
    old, new = toy.toy_bundle(tmp_path / "old.bundle"), toy.toy_bundle(tmp_path / "new.bundle", name="n", suffix=2)
    state = tmp_path / "state"
    assert adopt(old, state) == Adoption(True, "nothing", (), 0, "there is no saved state; nothing to adopt")
    with Learner.open(old, state) as learner:
        learner.add_class(NEW)
        learner.observe(toy.images(NEW, 10), NEW)
    assert adopt(new, state).how == "samples"
    with Learner.open(new, state) as learner:
        assert learner.status()["pending_samples"] == 10
        assert learner.update().accepted
    assert accuracy(new, state, NEW) >= 0.9


def test_a_damaged_newest_state_is_passed_over_and_said(state: Path, tmp_path: Path) -> None:
    newest = max(state.glob("snapshot-*"))
    newest.write_bytes(newest.read_bytes()[:-5])
    adoption = adopt(toy.toy_bundle(tmp_path / "new.bundle", release=2), state)
    assert adoption.accepted
    assert newest.name in adoption.notes[0]


def test_damage_after_an_adoption_says_what_to_do(state: Path, tmp_path: Path) -> None:
    """The last good state is the old bundle's: it can be adopted again."""
    new = toy.toy_bundle(tmp_path / "new.bundle", release=2)
    adopt(new, state)
    newest = max(state.glob("snapshot-*"))
    newest.write_bytes(b"")
    with pytest.raises(StateError, match="let this one adopt the state"):
        Learner.open(new, state)
    assert adopt(new, state).how == "state"
    assert accuracy(new, state, NEW) >= 0.9


def test_it_is_public() -> None:
    assert public_adopt is adopt


def test_from_a_shell(state: Path, tmp_path: Path) -> None:
    new = toy.toy_bundle(tmp_path / "new.bundle", release=2)
    code = "import sys, toy; toy.install(); from pocketstep_device.cli import main; sys.exit(main(sys.argv[1:]))"

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)

    refused = run("adopt", str(new))
    assert refused.returncode == 2
    assert "adopt needs --state" in refused.stderr
    done = run("adopt", str(new), "--state", str(state), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["how"] == "state"
    again = run("adopt", str(new), "--state", str(state))
    assert "nothing to adopt" in again.stdout
    untrusted = run("status", str(new), "--state", str(state), "--trust", "00")
    assert untrusted.returncode == 2
    assert "no ed25519 public key" in untrusted.stderr
