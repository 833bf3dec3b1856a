"""A new bundle takes over what a device learned with an older one, by one write or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pocketstep_device.budget import Budget
from pocketstep_device.bundle import Bundle
from pocketstep_device.errors import StateError
from pocketstep_device.fingerprint import PREFIX, fingerprint, same_answers, same_latents
from pocketstep_device.knowledge import without_rollback
from pocketstep_device.learner import Learner
from pocketstep_device.machine import Machine
from pocketstep_device.replay import ReplayStore, chunks_of
from pocketstep_device.reports import Progress, UpdateReport
from pocketstep_device.samples import FLAGS, Samples
from pocketstep_device.state import Snapshot, StateStore
from pocketstep_device.state_checks import are_facts, checked_values
from pocketstep_device.storage import FolderLock
from pocketstep_device.tensors import Array
from pocketstep_device.trust import ReleaseFloor

How = Literal["nothing", "state", "samples", "replay"]


@dataclass(frozen=True)
class Adoption:
    """What became of a device's state under a new bundle.

    Attributes:
        accepted: whether the state is now the new bundle's; when False, everything is as it was.
        how: ``nothing`` (there was no state, or it was this bundle's already), ``state`` (the plans agree: trained
            tensors, statistics, classes and samples were taken over as they are), ``samples`` (nothing had been learned
            yet: the new bundle's state, with the observed images to learn from) or ``replay`` (the plans differ behind
            the same frozen layers: the new bundle learned the stored samples).
        classes: the device's own classes that came along.
        samples: how many stored samples came along.
        reason: one sentence.
        update: of ``replay``.
        notes: what went wrong without stopping anything, in sentences for the user.
    """

    accepted: bool
    how: How
    classes: tuple[str, ...]
    samples: int
    reason: str
    update: UpdateReport | None = None
    notes: tuple[str, ...] = ()


class Draft(StateStore):
    """A store that writes nothing: what a learner saves in it is kept in memory, to be committed by one write."""

    def __init__(self, folder: Path, bundle_id: str, base: int) -> None:
        super().__init__(folder, bundle_id)
        self.saved: Snapshot | None = None
        self._base = base

    def load(self, any_bundle: bool = False) -> Snapshot | None:
        """What was saved here; nothing of the folder."""
        return self.saved

    def save(self, tensors: Mapping[str, Array], info: Mapping[str, Any]) -> Snapshot:
        """Keeps it; numbers go on from the folder's, so that random choices differ."""
        version = (self.saved.version if self.saved else self._base) + 1
        self.saved = Snapshot(version, dict(tensors), dict(info), self._bundle)
        return self.saved

    def infos(self) -> dict[int, dict[str, Any]]:
        """Those of the folder's snapshots, and the draft's."""
        own = {self.saved.version: self.saved.info} if self.saved else {}
        return {**super().infos(), **own}


def adopt(
    path: str | os.PathLike[str],
    state: str | os.PathLike[str],
    runtime: str = "litert",
    threads: int = 2,
    store_mb: float = 64.0,
    trusted_keys: Sequence[str] | None = None,
    budget: Budget | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    method: str = "auto",
) -> Adoption:
    """Gives a state, learned with an older bundle, to a new one; the older bundle need not be there any more.

    Where the plans agree, the device's trained tensors, statistics, classes and samples are taken over as they are.
    Where only the frozen layers do, the new bundle learns the stored samples by an update of its own, which is checked
    like any other. Everything is decided before anything is written, and then written by one rename: a process that
    dies leaves the old state, or the new one. Nobody else may have the state open.

    Args:
        path: the new bundle, a folder or a zip.
        state: the folder of what was learned with the older one.
        runtime, threads, store_mb, trusted_keys: as for ``Learner.open``.
        budget, on_progress, method: of the update, if there is one, as for ``Learner.update``.

    Returns:
        What became of it; open the new bundle with the same folder then.

    Raises:
        BundleError: as for ``Learner.open``; or the bundle's release is lower than one that the device has had.
        StateError: the new bundle can't use the state: other frozen layers, too few slots, or a learned class without
            stored samples; or as for ``Learner.open``. Nothing was changed.
        CheckFailedError: the update does not fit the budget. Nothing was changed.
    """
    bundle, folder = Bundle.open(path, trusted_keys), Path(state)
    machine = Machine(bundle, runtime, threads)
    lock = FolderLock(folder)
    with lock:
        floor = ReleaseFloor(folder)
        floor.check(bundle.manifest.release, bundle.manifest.name)
        adopter = _Adopter(bundle, machine, folder, int(store_mb * 2**20), lock)
        adoption = adopter.run(lambda learner: learner.update(budget, on_progress, method))
        if adoption.accepted:
            floor.keep(bundle.manifest.release)
    return adoption


class _Adopter:
    """One adoption, under the folder's lock."""

    def __init__(self, bundle: Bundle, machine: Machine, folder: Path, max_bytes: int, lock: FolderLock) -> None:
        self._bundle, self._manifest, self._machine = bundle, bundle.manifest, machine
        self._folder, self._max_bytes, self._lock = folder, max_bytes, lock
        self._store = StateStore(folder, bundle.digest)
        self._notes: list[str] = []

    def run(self, update: Callable[[Learner], UpdateReport]) -> Adoption:
        old = self._store.load(any_bundle=True)
        self._notes += self._store.notes
        if old is None or old.bundle == self._bundle.digest:
            what = "there is no saved state" if old is None else "the state is this bundle's already"
            return self._done("nothing", (), 0, f"{what}; nothing to adopt")
        mask = old.tensors.get("class_mask")
        if mask is None or mask.ndim != 1 or not are_facts(old.info, len(mask)):
            raise StateError("The saved state does not say which classes it has learned. Restore it from a copy.")
        classes = self._merged_classes(old)
        own = tuple(classes[len(self._manifest.task.classes) :])
        mine = fingerprint(self._machine)
        if old.info["updates"] and self._agrees(mine, old):
            taken = replace(old, info=without_rollback(old.info))
            checked_values(taken, self._manifest, "The saved state", StateError)
            count = len(self._samples(taken))
            self._store.save(taken.tensors, taken.info)
            return self._done("state", own, count, "the plans agree: the state was taken over as it is")
        samples = self._samples(old)
        if len(samples):
            self._check_latents(mine, old)
        self._check_learned(old, samples)
        return self._replay(old, classes, own, samples, update)

    def _replay(
        self, old: Snapshot, classes: list[str], own: tuple[str, ...], samples: Samples,
        update: Callable[[Learner], UpdateReport],
    ) -> Adoption:  # fmt: skip
        """A learner on the new bundle, which writes only samples, takes them and learns; then the one write."""
        draft = Draft(self._folder, self._bundle.digest, old.version)
        learner = Learner(self._bundle, draft, self._replay_store(self._manifest.task.slots), self._lock, self._machine)
        learner.take(self._relabelled(samples, old, classes), classes)
        report = update(learner) if old.info["updates"] and len(samples) else None
        accepted = report is None or report.accepted
        if accepted and draft.saved is not None:
            self._store.save(draft.saved.tensors, without_rollback(draft.saved.info))
        self._replay_store(self._manifest.task.slots).collect_garbage(
            [chunk for info in self._store.infos().values() for chunk in chunks_of(info)]
        )
        if report is None:
            reason = "nothing had been learned yet: the new bundle begins with its own state and the observed images"
            return self._done("samples", own, len(samples), reason)
        if not accepted:
            reason = f"the new bundle could not learn the stored samples ({report.reason}); nothing was changed"
            return Adoption(False, "replay", (), 0, reason, report, tuple(self._notes))
        return replace(
            self._done("replay", own, len(samples), "the new bundle learned the stored samples"), update=report
        )

    def _done(self, how: How, own: tuple[str, ...], samples: int, reason: str) -> Adoption:
        return Adoption(True, how, own, samples, reason, None, tuple(self._notes))

    def _replay_store(self, slots: int) -> ReplayStore:
        return ReplayStore(self._folder, self._manifest.latent.shape, slots, self._max_bytes)

    def _samples(self, old: Snapshot) -> Samples:
        slots, chunks = len(old.tensors["class_mask"]), chunks_of(old.info)
        if not chunks:
            return Samples.empty(self._manifest.latent.shape, slots)
        _, samples, notes = self._replay_store(slots).recover(chunks, old.tensors)
        self._notes += notes
        return samples

    def _merged_classes(self, old: Snapshot) -> list[str]:
        """The new bundle's classes, then the device's own."""
        known = list(self._manifest.task.classes)
        merged = known + [name for name in old.info["classes"] if name not in known]
        if len(merged) > self._manifest.task.slots:
            raise StateError(
                f"The device has {len(merged) - len(known)} classes of its own, and the bundle "
                f"'{self._manifest.name}' has {self._manifest.task.slots - len(known)} spare slots; nothing was "
                "changed. Build it with more spare classes."
            )
        return merged

    def _agrees(self, mine: Mapping[str, Array], old: Snapshot) -> bool:
        """Whether the state means the same here: same tensors, same cloud classes, same answers."""
        beside = {f"samples.{flag}" for flag in FLAGS}
        wanted = {spec.name: tuple(spec.shape) for spec in self._manifest.state}
        found = {n: t.shape for n, t in old.tensors.items() if n not in beside and not n.startswith(PREFIX)}
        known = self._manifest.task.classes
        same_classes = old.info.get("brought") == len(known) and tuple(old.info["classes"][: len(known)]) == known
        if wanted != found or not same_classes:
            return False
        return same_latents(mine, old.tensors) and same_answers(mine, old.tensors)

    def _check_latents(self, mine: Mapping[str, Array], old: Snapshot) -> None:
        if not same_latents(mine, old.tensors):
            raise StateError(
                f"The frozen layers of the bundle '{self._manifest.name}' are not those that the stored samples were "
                "encoded with, and images are never stored, so nothing can be replayed; nothing was changed. Build "
                "the bundle on the same frozen layers, or begin with another state folder and observe again."
            )

    def _check_learned(self, old: Snapshot, samples: Samples) -> None:
        """Every class that the device taught itself needs samples to teach it again."""
        known, stored = self._manifest.task.classes, set(samples.labels.tolist())
        learned = np.flatnonzero(old.tensors["class_mask"] > 0)
        names = old.info["classes"]
        lost = [names[i] for i in learned if i < len(names) and names[i] not in known and i not in stored]
        if lost:
            raise StateError(
                f"The plans differ, and no samples of {', '.join(map(repr, lost))} are stored to learn them again; "
                "nothing was changed. Observe some images of them with the old bundle first."
            )

    def _relabelled(self, samples: Samples, old: Snapshot, classes: list[str]) -> Samples:
        """In the new bundle's slots, all to be learned anew, without targets of the old one."""
        slot = np.array([classes.index(name) for name in old.info["classes"]], np.int64)
        if len(samples) and samples.labels.max() >= len(slot):
            raise StateError("The saved state has samples of a class without a name: it was damaged. Restore a copy.")
        count, slots = len(samples), self._manifest.task.slots
        return Samples(
            samples.latents,
            slot[samples.labels],
            np.zeros((count, slots), np.float32),
            np.zeros(count, np.bool_),
            samples.held_back,
            samples.origin,
            np.ones(count, np.bool_),
        )
