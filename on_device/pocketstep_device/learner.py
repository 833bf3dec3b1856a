"""The learner: what an app or a board calls."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pocketstep_device import closed_form
from pocketstep_device.budget import Budget, Meter
from pocketstep_device.bundle import Bundle
from pocketstep_device.errors import CheckFailedError, InputError
from pocketstep_device.forecast import check_room, forecast
from pocketstep_device.images import check_images
from pocketstep_device.knowledge import Knowledge, without_rollback
from pocketstep_device.machine import Machine
from pocketstep_device.replay import ReplayStore
from pocketstep_device.reports import Progress, UpdateReport
from pocketstep_device.runtimes import Array
from pocketstep_device.samples import Samples
from pocketstep_device.shipped import cloud_samples
from pocketstep_device.shuffle import SplitMix64
from pocketstep_device.state import StateStore
from pocketstep_device.state_checks import most_bytes
from pocketstep_device.storage import FolderLock
from pocketstep_device.target_pack import METHOD, TargetPack
from pocketstep_device.trust import ReleaseFloor
from pocketstep_device.update import Update


class Prediction(NamedTuple):
    """Labels of N images, and probabilities (N, classes) float32 in the order of ``classes``."""

    labels: list[str]
    probabilities: Array
    classes: list[str]


class Learner(Knowledge):
    """A bundle opened on a device. Use as a context manager, or call :meth:`close`.

    Every change is on disk when the call returns, or did not happen.
    """

    def __init__(self, bundle: Bundle, store: StateStore, replay: ReplayStore, lock: FolderLock, machine: Machine):
        super().__init__(bundle, store, replay, machine)
        self._lock = lock
        self._replayed = len(cloud_samples(bundle))  # read again when an update wants them: most of the time none does

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        state: str | os.PathLike[str] | None = None,
        runtime: str = "litert",
        threads: int = 2,
        store_mb: float = 64.0,
        trusted_keys: Sequence[str] | None = None,
    ) -> Learner:
        """Opens a bundle and what the device has learned with it.

        Args:
            path: the bundle, a folder or a zip.
            state: folder for what is learned; ``<bundle>.state`` beside the bundle where None. Made when missing.
            runtime: ``litert`` or ``executorch``.
            threads: CPU threads.
            store_mb: most MiB of stored latents.
            trusted_keys: ed25519 public keys, 64 hex digits each: only bundles that one of them signed are opened. None
                opens unsigned ones too.

        Raises:
            BundleError: missing, incomplete, damaged, newer or untrusted bundle, or one of a lower release than this
                state has had.
            StateError: the state belongs to another bundle, is damaged, or is in use by another process.
            MissingToolError: the runtime is not installed.
        """
        bundle = Bundle.open(path, trusted_keys)
        folder = Path(state) if state is not None else Path(f"{os.fspath(path).rstrip('/')}.state")
        machine = Machine(bundle, runtime, threads)
        lock = FolderLock(folder)
        lock.__enter__()
        try:
            floor = ReleaseFloor(folder)
            floor.check(bundle.manifest.release, bundle.manifest.name)
            store = StateStore(folder, bundle.digest, most_bytes(bundle.manifest))
            shape, slots = bundle.manifest.latent.shape, bundle.manifest.task.slots
            replay = ReplayStore(folder, shape, slots, int(store_mb * 2**20))
            learner = cls(bundle, store, replay, lock, machine)
            floor.keep(bundle.manifest.release)
            return learner
        except BaseException:
            lock.__exit__(None, None, None)
            raise

    def __enter__(self) -> Learner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets another process use the state."""
        self._lock.__exit__(None, None, None)

    @property
    def free_slots(self) -> int:
        """How many classes can still be added."""
        return self.manifest.task.slots - len(self.classes)

    def status(self) -> dict[str, Any]:
        """What is known and stored, ready for JSON."""
        samples = self._samples
        known = {c: int((samples.labels == i).sum()) for i, c in enumerate(self.classes)}
        return {
            "bundle": self.manifest.name,
            "release": self.manifest.release,
            "signed_by": self.bundle.signed_by,
            "version": self._version,
            "updates": self._info["updates"],
            "classes": self.classes,
            "not_yet_learned": [c for i, c in enumerate(self.classes) if not self._values["class_mask"][i]],
            "free_slots": self.free_slots,
            "stored_samples": known,
            "pending_samples": int(samples.pending.sum()),
            "can_roll_back": "before_update" in self._info,
            "notes": self.notes,
        }

    def classify(self, images: npt.NDArray[Any]) -> Prediction:
        """Labels and probabilities.

        Args:
            images: (N, H, W, C) or one (H, W, C), uint8, or floats in 0..255, of the bundle's input shape.

        Raises:
            InputError: another shape or dtype, NaN, or values out of range.
        """
        return self.classify_latents(self._encode(images))

    def encode(self, images: npt.NDArray[Any]) -> npt.NDArray[np.int8]:
        """Latents (N, h, w, c) of images as for :meth:`classify`: what is stored, and all that learning needs."""
        return np.clip(np.rint(self._encode(images)), -128, 127).astype(np.int8)

    def classify_latents(self, latents: npt.NDArray[Any]) -> Prediction:
        """As :meth:`classify`, of latents that :meth:`encode` gave, or of ones not yet rounded."""
        learned = np.flatnonzero(self._values["class_mask"][: len(self.classes)] > 0)
        outputs = self._machine.in_batches("classify", self._values, {"latents": latents}, "probabilities")
        names = [self.classes[i] for i in learned]
        probabilities = np.ascontiguousarray(outputs[:, learned])
        return Prediction([names[i] for i in probabilities.argmax(1)], probabilities, names)

    def add_class(self, name: str) -> None:
        """Gives a new class a spare slot; it is predicted after the next update.

        Raises:
            InputError: the name is taken or unusable, or no slot is free.
        """
        if not name or len(name) > 200 or not name.isprintable():
            raise InputError(f"{name!r} is no class name; use 1 to 200 printable characters")
        if name in self.classes:
            raise InputError(f"there is a class '{name}' already; observe images of it, no need to add it")
        if self.free_slots == 0:
            raise InputError(
                f"all {self.manifest.task.slots} class slots are taken; build the bundle again with more spare classes"
            )
        self._save(self._values, self._samples, {**self._info, "classes": [*self.classes, name]})

    def observe(self, images: npt.NDArray[Any], label: str) -> int:
        """Stores labelled images as int8 latents, for the next update; every fifth is held back to judge it.

        The others join the closed form's statistics at once, so that these know them even when the store is full.

        Args:
            images: as for :meth:`classify`.
            label: a class that exists; :meth:`add_class` makes one.

        Returns:
            How many images were stored: those whose latents the class does not hold yet.

        Raises:
            InputError: unusable images, or an unknown class.
        """
        return self.observe_latents(self.encode(images), label)

    def observe_latents(self, codes: npt.NDArray[np.int8], label: str) -> int:
        """As :meth:`observe`, of latents that :meth:`encode` gave."""
        if label not in self.classes:
            raise InputError(f"no class '{label}' here; add_class('{label}') first. Known: {', '.join(self.classes)}")
        label_slot = self.classes.index(label)
        codes = codes[self._samples.unseen(codes, label_slot)]
        if len(codes):
            seen = int(((self._samples.labels == label_slot) & self._samples.pending).sum())
            self.take(Samples.observed(codes, label_slot, self.manifest.task.slots, seen), self.classes)
        return len(codes)

    def update(
        self,
        budget: Budget | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        method: str = "auto",
        targets: str | os.PathLike[str] | None = None,
    ) -> UpdateReport:
        """Learns what was observed since the last update; keeps the result only when known classes survive it.

        With ``targets``, learns from the teacher's answers too: images without labels. Classes that only the teacher
        knows take free slots. The pack's samples are not stored; the closed form's statistics keep what they say.

        Args:
            budget: seconds and memory; no limit where None.
            on_progress: called after every step; an exception raised there cancels the update.
            method: a schedule of the manifest; ``auto`` takes the best phase on held-back samples.
            targets: a file of ``pocketstep targets``, made for this bundle; ``auto`` means ``targets`` then.

        Raises:
            InputError: nothing observed, unknown method, or a target pack that is damaged, another bundle's, or of
                more classes than there are free slots.
            BundleError: the replay set changed or went away since the bundle was opened.
            CheckFailedError: memory, disk or battery won't do, by a forecast before it begins; or it took more memory
                than its budget, or than there was. The state is as before.
        """
        pack = None if targets is None else TargetPack.read(targets, self.bundle)
        if pack is not None and method == "auto":
            method = METHOD
        self._check_method(method, pack)
        classes = self.classes if pack is None else pack.with_classes(self.classes, self.manifest.task.slots)
        known, values = self._values["class_mask"].copy(), self._values
        mask = np.maximum(known, (values["count"] > 0).astype(np.float32))
        mask[np.unique(self._samples.labels[self._samples.pending])] = 1.0
        budget = budget or Budget()
        own = len(self._samples) + (len(pack.latents) if pack else 0)
        training = self.manifest.schedules[method].training
        need = forecast(self.manifest, self._machine.runtime, self._replayed, own, training)
        check_room(need, budget, self._machine.taken_mb, self._store.folder)
        meter = Meter(budget)
        try:
            samples = self._known_samples(mask)
            lesson = pack.lesson(classes, self.manifest) if pack else None
            if lesson is not None:
                mask = np.maximum(mask, lesson.taught)
                values = closed_form.observed(
                    self._machine, values, lesson.samples, np.flatnonzero(~lesson.samples.held_back)
                )
                samples = Samples.concat([samples, lesson.samples])
            run = Update(
                self._machine.with_threads(budget.threads),
                {**values, "class_mask": mask},
                known,
                samples,
                self.manifest.schedules[method],
                method,
                meter,
                SplitMix64((self._version << 32) ^ int(self._info["updates"])),
                on_progress,
                lesson,
            )
            report, values = run.run()
            if report.accepted:
                self._keep_update(values, classes, taught=lesson is not None)
        except MemoryError as error:
            raise CheckFailedError(
                "the update ran out of memory; nothing was changed. End other programs or build the bundle with a "
                "smaller batch"
            ) from error
        return replace(report, stopped=meter.stopped)

    def _known_samples(self, mask: Array) -> Samples:
        """The cloud's and the device's own, of the classes in a mask."""
        samples = Samples.concat([cloud_samples(self.bundle), self._samples])
        wanted = mask[samples.labels] > 0
        return samples if wanted.all() else samples.select(wanted)

    def _check_method(self, method: str, pack: TargetPack | None) -> None:
        if method not in self.manifest.schedules:
            older = "; it was built before there were target packs" if method == METHOD else ""
            methods = ", ".join(sorted(self.manifest.schedules))
            raise InputError(f"unknown method '{method}'; this bundle has {methods}{older}")
        if method == METHOD and pack is None:
            raise InputError(f"the method '{METHOD}' learns from a target pack; give one made by 'pocketstep targets'")
        if pack is None and not self._samples.pending.any():
            raise InputError("nothing was observed since the last update; observe labelled images first")

    def forget(self, label: str) -> None:
        """Takes a class out: its samples, its part of the closed form's statistics, its place among the answers.

        Its slot stays taken and its name known, so that it can be taught again. What gradient steps learned from it
        stays in the trained tensors; an update of kind ``closed-form`` gives heads that never saw it.

        Raises:
            InputError: no such class, or it is the only one.
        """
        if label not in self.classes:
            raise InputError(f"no class '{label}' here. Known: {', '.join(self.classes)}")
        slot = self.classes.index(label)
        mask = self._values["class_mask"].copy()
        mask[slot] = 0.0
        if not mask.any():
            raise InputError(f"'{label}' is the only class that is known; teach another one first")
        own = self._samples.labels == slot
        counted = np.flatnonzero(own & ~self._samples.held_back)
        values = {**self._values, "class_mask": mask}
        values = closed_form.forgotten(self._machine, values, slot, self._samples, counted)
        samples = self._samples.select(~own)
        chunks = self._replay.append(samples)
        info = {**without_rollback(self._info), "chunks": [c.to_info() for c in chunks]}
        self._save(values, samples, info)
        self._collect_garbage()

    def _encode(self, images: npt.NDArray[Any]) -> Array:
        checked = check_images(images, tuple(self.manifest.task.input.shape))
        return self._machine.in_batches("encode", {}, {"images": checked}, "latents")
