"""What a learner holds: values, samples and notes, as the newest snapshot and its chunks have them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np

from pocketstep_device import closed_form
from pocketstep_device.bundle import Bundle
from pocketstep_device.errors import StateError
from pocketstep_device.fingerprint import fingerprint
from pocketstep_device.machine import Machine
from pocketstep_device.replay import Chunk, ReplayStore, chunks_of
from pocketstep_device.runtimes import Array
from pocketstep_device.samples import DEVICE, Samples
from pocketstep_device.shipped import initial_snapshot
from pocketstep_device.state import Snapshot, StateStore
from pocketstep_device.state_checks import checked_values

TAUGHT = "taught"
"""In a snapshot's info: a target pack took part in the last update."""


class Knowledge:
    """The state of one bundle on one device, in memory and on disk; the only place that writes it.

    Attributes:
        notes: what went wrong without stopping anything, in sentences for the user.
    """

    def __init__(self, bundle: Bundle, store: StateStore, replay: ReplayStore, machine: Machine) -> None:
        self.bundle, self.manifest, self._machine = bundle, bundle.manifest, machine
        self._store, self._replay = store, replay
        self._fingerprint: dict[str, Array] = {}
        self.notes = store.notes
        initial = initial_snapshot(bundle)
        self._use(store.load() or initial)

    def take(self, new: Samples, classes: list[str]) -> None:
        """Stores samples of these classes, for the next update; what observing and adopting have in common."""
        values = closed_form.observed(self._machine, self._values, new, np.flatnonzero(~new.held_back))
        chunks = self._chunks + self._replay.append(new)
        samples = Samples.concat([self._samples, new])
        if self._replay.over_limit(chunks):
            chunks, samples = self._replay.compact(samples)
        info = {**self._info, "classes": classes, "chunks": [c.to_info() for c in chunks]}
        self._save(values, samples, info)
        self._collect_garbage()

    @property
    def values(self) -> Mapping[str, Array]:
        """The state's tensors by name; not to be written to."""
        return self._values

    @property
    def samples(self) -> Samples:
        """What the device observed, as latents."""
        return self._samples

    @property
    def classes(self) -> list[str]:
        """All classes, the learned ones among them, in the order of their slots."""
        return list(self._info["classes"])

    def take_trained(self, values: Mapping[str, Array]) -> None:
        """Goes on with other trained tensors and the trained head; own samples are to be learned anew with them."""
        own = replace(self._samples, pending=self._samples.origin == DEVICE)
        self._save({**self._values, **values, "blend": np.zeros(1, np.float32)}, own, without_rollback(self._info))

    def rollback(self) -> None:
        """Takes back the last accepted update; observed images and added classes stay and can be learned again.

        Raises:
            StateError: there is no update to take back.
        """
        if "before_update" not in self._info:
            raise StateError("there is no update to roll back; the state is that of the bundle or was rolled back")
        version = int(self._info["before_update"])  # 0: the first change was a pack's, and the bundle has the state
        before = self._store.load_version(version) if version else initial_snapshot(self.bundle)
        values = checked_values(
            before, self.manifest, f"The saved state {before.version} before that update", StateError
        )
        chunks, earlier = self._recovered(before)
        later = self._samples.select(self._samples.pending)  # observed since that update
        samples = Samples.concat([earlier, later])
        chunks += self._replay.append(later)
        if self._same_features(values) and not self._info.get(TAUGHT):
            values.update({name: self._values[name] for name in closed_form.STATISTICS})
        else:
            values = closed_form.observed(self._machine, values, later, np.flatnonzero(~later.held_back))
        info = {**before.info, "classes": list(self._info["classes"]), "chunks": [c.to_info() for c in chunks]}
        self._save(values, samples, without_rollback(info))
        self._collect_garbage()

    def _same_features(self, values: Mapping[str, Array]) -> bool:
        """Whether other values make the same features as the present ones: only heads differ."""
        body = [s.name for s in self.manifest.state if s.kind == "parameter" and not s.name.startswith("head.")]
        return all(np.array_equal(values[name], self._values[name]) for name in body)

    def _keep_update(self, values: Mapping[str, Array], classes: list[str], *, taught: bool) -> None:
        """Saves an accepted update; ``taught`` by a target pack, whose part of the statistics goes when it does."""
        settled = replace(self._samples, pending=np.zeros_like(self._samples.pending))
        info = {
            **without_rollback(self._info),
            **({TAUGHT: True} if taught else {}),
            "classes": classes,
            "updates": int(self._info["updates"]) + 1,
            "before_update": self._version,
            "keep": [self._version],
        }
        self._save(values, settled, info)

    def _save(self, values: Mapping[str, Array], samples: Samples, info: Mapping[str, Any]) -> None:
        if not self._fingerprint:
            self._fingerprint = fingerprint(self._machine)
        self._use(self._store.save({**values, **samples.flags(), **self._fingerprint}, info))

    def _recovered(self, snapshot: Snapshot) -> tuple[list[Chunk], Samples]:
        """The samples of a snapshot that are intact; the others are noted."""
        intact, samples, notes = self._replay.recover(chunks_of(snapshot.info), snapshot.tensors)
        self.notes += [note for note in notes if note not in self.notes]
        return intact, samples

    def _use(self, snapshot: Snapshot) -> None:
        values = checked_values(snapshot, self.manifest, f"The saved state in {self._store.folder}", StateError)
        chunks, samples = self._recovered(snapshot)
        self._values, self._samples, self._chunks = values, samples, chunks
        self._info = {**snapshot.info, "chunks": [c.to_info() for c in chunks]}
        self._version = snapshot.version

    def _collect_garbage(self) -> None:
        with suppress(StateError):  # what a snapshot needs can't be told: it stays
            kept = [chunks_of(info) for info in self._store.infos().values()]
            self._replay.collect_garbage(chain.from_iterable(kept))


def without_rollback(info: Mapping[str, Any]) -> dict[str, Any]:
    """A snapshot's info that says nothing of an update to take back."""
    return {k: v for k, v in info.items() if k not in ("before_update", "keep", TAUGHT)}
