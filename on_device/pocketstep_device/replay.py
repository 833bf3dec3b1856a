"""The store of samples that an update learns from: int8 latents with labels and targets, in immutable files.

What never changes about a sample lies in chunk files named after their digest. What an update changes
(whether a sample waits for its first update, whether it is held back for the check) lies in the snapshot as
the tensors ``samples.pending`` and ``samples.held_back``, one value a sample in the order of the snapshot's
``info["chunks"]``. A chunk is written before the snapshot that names it, so a crash leaves the old snapshot,
its chunks, and one file that ``collect_garbage`` removes.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pocketstep_device.errors import InputError, StateError
from pocketstep_device.samples import FLAGS, Samples
from pocketstep_device.storage import may_be_intact, read_regular, remove_leftovers, write_atomically
from pocketstep_device.tensors import Array, read_tensors, write_tensors

FORMAT = "pocketstep-latents"
VERSION = 1

_FIXED = ("latents", "labels", "has_soft", "origin")
_NAME = re.compile(r"latents-([0-9a-f]{12})\.safetensors")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_OVERHEAD = 4096  # bytes that a chunk's header can take
_ROOM = 0.75  # share of the limit that a compaction fills, so that the next append fits


@dataclass(frozen=True)
class Chunk:
    """A chunk file as a snapshot names it: file name, SHA-256 (64 hex digits), number of samples."""

    name: str
    sha256: str
    count: int

    def to_info(self) -> dict[str, Any]:
        """The JSON object for ``info["chunks"]``."""
        return asdict(self)

    @classmethod
    def from_info(cls, value: object) -> Chunk:
        """Reads one entry of ``info["chunks"]``.

        Raises:
            StateError: if it is not exactly such an entry.
        """
        if isinstance(value, dict) and set(value) == {"name", "sha256", "count"}:
            chunk = cls(**value)
            texts = isinstance(chunk.name, str) and isinstance(chunk.sha256, str)
            if texts and type(chunk.count) is int and chunk.count > 0 and _SHA256.fullmatch(chunk.sha256):
                match = _NAME.fullmatch(chunk.name)
                if match and chunk.sha256.startswith(match[1]):
                    return chunk
        raise StateError("The saved state names its samples wrongly: it was damaged. Restore it from a copy.")


def chunks_of(info: Mapping[str, Any]) -> list[Chunk]:
    """The chunks that a snapshot's info names.

    Raises:
        StateError: if it does not name chunks, or one of them twice.
    """
    named = info.get("chunks", [])
    chunks = [Chunk.from_info(entry) for entry in (named if isinstance(named, list) else [named])]
    if len({chunk.name for chunk in chunks}) != len(chunks):
        raise StateError("The saved state names the same samples twice: it was damaged. Restore it from a copy.")
    return chunks


class _DamagedChunkError(StateError):
    """Samples that ``recover`` can do without."""


class ReplayStore:
    """The device's samples in one folder. Hold the folder's ``FolderLock`` while using it.

    Args:
        folder: Where the chunks lie; it must exist.
        latent_shape: (h, w, c) of the bundle's latents.
        slots: The bundle's number of class slots.
        max_bytes: How many bytes of chunks a snapshot may name; see ``over_limit``.
    """

    def __init__(self, folder: Path, latent_shape: Sequence[int], slots: int, max_bytes: int) -> None:
        self._folder = folder
        self._latent_shape = tuple(latent_shape)
        self._slots = slots
        self._max_bytes = max_bytes

    def append(self, samples: Samples) -> list[Chunk]:
        """Writes samples as one new chunk, to be named by the next snapshot.

        Returns:
            The chunk; nothing for no samples.

        Raises:
            InputError: if the samples don't fit the bundle.
            StateError: if they can't be written.
        """
        samples.check(self._latent_shape, self._slots)
        if not len(samples):
            return []
        tensors = {name: getattr(samples, name) for name in _FIXED}
        tensors["soft_rows"] = samples.soft_targets[samples.has_soft]
        data = write_tensors(tensors, {"format": FORMAT, "version": str(VERSION)})
        sha256 = hashlib.sha256(data).hexdigest()
        chunk = Chunk(f"latents-{sha256[:12]}.safetensors", sha256, len(samples))
        write_atomically(self._folder / chunk.name, data)
        return [chunk]

    def load(self, chunks: Sequence[Chunk], tensors: Mapping[str, Array]) -> Samples:
        """Reads the samples of a snapshot.

        Args:
            chunks: The snapshot's chunks, in its order.
            tensors: The snapshot's tensors, of which ``Samples.flags`` are read.

        Raises:
            StateError: if a chunk is missing or damaged, or the flags don't belong to the chunks.
        """
        loaded = [self._load_chunk(chunk, flags) for chunk, flags in self._with_flags(chunks, tensors)]
        return Samples.concat([Samples.empty(self._latent_shape, self._slots), *loaded])

    def recover(self, chunks: Sequence[Chunk], tensors: Mapping[str, Array]) -> tuple[list[Chunk], Samples, list[str]]:
        """Like ``load``, but does without chunks that are missing or damaged.

        Returns:
            The chunks that are intact, their samples, and a sentence for the user about each of the others.

        Raises:
            StateError: if a chunk is there and may not be read, was written by another version of pocketstep or for
                another bundle, or the flags don't belong to the chunks.
        """
        intact: list[Chunk] = []
        parts, notes = [Samples.empty(self._latent_shape, self._slots)], []
        for chunk, flags in self._with_flags(chunks, tensors):
            try:
                parts.append(self._load_chunk(chunk, flags))
            except _DamagedChunkError as problem:
                if may_be_intact(problem):  # not given up
                    raise
                notes.append(f"{problem} {chunk.count} samples are gone; what was learned from them stays.")
                continue
            intact.append(chunk)
        return intact, Samples.concat(parts), notes

    def over_limit(self, chunks: Iterable[Chunk]) -> bool:
        """Whether chunks take more than ``max_bytes`` on the disk, so that ``compact`` is due.

        Raises:
            StateError: if one is missing.
        """
        try:
            return sum((self._folder / chunk.name).stat().st_size for chunk in chunks) > self._max_bytes
        except OSError as reason:
            raise StateError(
                f"Samples in {self._folder} can't be read ({reason}). Restore the folder from a copy."
            ) from reason

    def compact(self, samples: Samples) -> tuple[list[Chunk], Samples]:
        """Keeps what fits into three quarters of ``max_bytes`` and writes it as one new chunk.

        Classes get equal shares as far as they have samples, so that one that floods the store displaces no other;
        within a class pending samples stay first, with the share of held-back samples unchanged. The rest is a
        reservoir (Vitter 1985) by lots (bottom-k sampling, Cohen and Kaplan 2007): a sample's lot is part of its
        latent's digest, and the lowest stay, so that after any number of compactions all that was ever observed of
        a class was as likely to stay, and nothing about the past needs to be kept.

        Args:
            samples: All samples of the store.

        Returns:
            The new chunks and the samples that are kept, in their old order.

        Raises:
            InputError: if the samples don't fit the bundle.
            StateError: if the limit has no room for a single sample, or the chunk can't be written.
        """
        order = _by_priority(samples)
        sizes = self._bytes_per_sample(samples.has_soft[order]).cumsum() + _OVERHEAD
        count = int(np.searchsorted(sizes, _ROOM * self._max_bytes, side="right"))
        if len(samples) and not count:
            raise StateError(f"{self._max_bytes} bytes have no room for a sample. Raise the limit of the samples.")
        kept = samples.select(np.sort(order[:count]))
        return self.append(kept), kept

    def collect_garbage(self, chunks_in_use: Iterable[Chunk]) -> None:
        """Removes chunks that no snapshot needs: pass those of every snapshot that is kept."""
        used = {chunk.name for chunk in chunks_in_use}
        remove_leftovers(self._folder)
        for path in self._folder.glob("latents-*.safetensors"):
            if _NAME.fullmatch(path.name) and path.name not in used:
                try:
                    path.unlink()
                except OSError:
                    continue  # it does no harm, and the next call tries again

    def _bytes_per_sample(self, has_soft: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """Bytes of each sample in a chunk: latent, label, two flags, and its soft targets if it has any."""
        return math.prod(self._latent_shape) + 10 + np.where(has_soft, 4 * self._slots, 0).astype(np.int64)

    def _with_flags(
        self, chunks: Sequence[Chunk], tensors: Mapping[str, Array]
    ) -> Iterator[tuple[Chunk, dict[str, Array]]]:
        """Every chunk with the flags of its samples."""
        count = sum(chunk.count for chunk in chunks)
        flags = {name: tensors.get(f"samples.{name}", np.zeros(0, np.bool_)) for name in FLAGS}
        if any(flag.dtype != np.bool_ or flag.shape != (count,) for flag in flags.values()):
            raise StateError(f"The saved state's flags are not for its {count} samples. Restore it from a copy.")
        start = 0
        for chunk in chunks:
            end = start + chunk.count
            yield chunk, {name: flag[start:end] for name, flag in flags.items()}
            start = end

    def _load_chunk(self, chunk: Chunk, flags: Mapping[str, Array]) -> Samples:
        path = self._folder / chunk.name
        what = f"The samples in {path}"
        most = chunk.count * int(self._bytes_per_sample(np.ones(1, np.bool_))[0]) + _OVERHEAD
        data = read_regular(path, most, what, _DamagedChunkError)
        if hashlib.sha256(data).hexdigest() != chunk.sha256:
            raise _DamagedChunkError(f"{what} are damaged: their digest differs. Restore the folder from a copy.")
        tensors, metadata = read_tensors(data, what, error=StateError)
        if metadata != {"format": FORMAT, "version": str(VERSION)}:
            raise StateError(f"{what} were written by another version of pocketstep. Update pocketstep-device.")
        samples = self._unpack(tensors, flags, what)
        if len(samples) != chunk.count:
            raise StateError(f"{what} are {len(samples)}, not {chunk.count}. Restore the folder from a copy.")
        return samples

    def _unpack(self, tensors: Mapping[str, Array], flags: Mapping[str, Array], what: str) -> Samples:
        """Samples from a chunk's tensors, checked by ``Samples``; its errors become ``StateError``."""
        try:
            if set(tensors) != {*_FIXED, "soft_rows"}:
                raise InputError("Its tensors are not those of samples.")
            has_soft, rows = tensors["has_soft"], tensors["soft_rows"]
            if has_soft.dtype != np.bool_ or rows.shape != (int(has_soft.sum()), self._slots):
                raise InputError("Its soft targets don't fit.")
            soft = np.zeros((*has_soft.shape, self._slots), np.float32)
            soft[has_soft] = rows
            fixed = {name: tensors[name] for name in _FIXED}
            samples = Samples(**fixed, soft_targets=soft, **flags)
            samples.check(self._latent_shape, self._slots)
        except InputError as reason:
            raise StateError(f"{what} don't fit the bundle ({reason}). Restore the folder from a copy.") from reason
        return samples


def _by_priority(samples: Samples) -> npt.NDArray[np.int64]:
    """Indices of all samples, the ones to keep first: rank by rank in every class, pending ones before others."""
    count = len(samples)
    lots, ranks = _lots(samples), np.zeros(count, np.int64)
    for label in np.unique(samples.labels):
        members = np.flatnonzero(samples.labels == label)
        spread = _spread(samples.held_back[members], lots[members])
        ranks[members[np.lexsort((spread, ~samples.pending[members]))]] = np.arange(len(members))
    return np.lexsort((lots, ~samples.pending, ranks))


def _lots(samples: Samples) -> npt.NDArray[np.uint64]:
    """A sample's lot, the lower the longer it is kept: the first eight bytes of its latent's SHA-256."""
    digests = b"".join(hashlib.sha256(latent.tobytes()).digest()[:8] for latent in samples.latents)
    return np.frombuffer(digests, ">u8").astype(np.uint64)


def _spread(held_back: npt.NDArray[np.bool_], lots: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """A place in 0 to 1 for each sample of a class, by lot, so that any prefix has its share held back."""
    place = np.zeros(len(held_back))
    for group in (held_back, ~held_back):
        size = int(group.sum())
        place[group] = (np.argsort(np.argsort(lots[group], kind="stable")) + 0.5) / max(size, 1)
    return place
