"""What an update will take, before it begins: memory and disk, against what there is."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pocketstep_device.budget import Budget
from pocketstep_device.errors import CheckFailedError
from pocketstep_device.manifest import Manifest, Tensor

MEASURED = "bytes.resident."
"""With a runtime's name behind: the manifest's ``cost`` of a loaded program, measured when the bundle was built."""
WHOLE = ".whole"
"""Behind that: of a program whose signatures are in memory all at once, where that is not how this package loads it."""

_MIB = 2**20
_FLOAT = 4
_STATISTICS = 3
"""Copies of the statistics beside the saved ones, whose matrix is often the largest tensor that calls give: refreshed
ones, what a call goes from and to, and what the heap keeps of those."""
_SLACK = 4 * _MIB
"""What Python, numpy and the allocator take beside. SAFETY.md has the networks that these numbers are fitted to."""
_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Forecast:
    """Peak resident memory of a learner that opens, observes and updates, above its process before; bytes.

    Attributes:
        program: the loaded program, with what its signatures take in turn.
        data: samples, state and candidates in numpy.
        disk: what the update writes before it removes anything.
        measured: whether ``program`` was measured when the bundle was built; else it is a guess from its size.
    """

    program: int
    data: int
    disk: int
    measured: bool

    @property
    def memory(self) -> int:
        """Program and data together."""
        return self.program + self.data


def forecast(
    manifest: Manifest, runtime: str, cloud: int, device: int, training: int = 2, whole: bool = False
) -> Forecast:
    """Foretells an update.

    Beside the program, which was measured with a call's inputs and outputs: the samples, the saved state, statistics
    that are refreshed, and the trained tensors that each training phase leaves as a candidate.

    Args:
        manifest: of the bundle.
        runtime: a name in ``manifest.runtimes``, or ``tflite``.
        cloud: samples of the replay set.
        device: samples observed on the device.
        training: phases of the schedule that train.
        whole: for a host that keeps all signatures in memory at once, and buffers for each, as the Android app does
            with LiteRT.
    """
    key = "litert" if runtime == "tflite" else runtime
    measured = manifest.cost.get(MEASURED + key)
    if whole:
        measured = manifest.cost.get(MEASURED + key + WHOLE, measured)
    state = _bytes(manifest, *(spec.kind for spec in manifest.state))
    trained = _bytes(manifest, "parameter", "optimiser", "head")
    slots, latent = manifest.task.slots, math.prod(manifest.latent.shape)
    sample = latent + 3 * slots * _FLOAT + 16
    taken = [_elements(signature.inputs) for signature in manifest.signatures.values()]
    buffers = sum(taken) + sum(_elements(s.outputs) for s in manifest.signatures.values()) if whole else 0
    data = (
        (cloud + 2 * device) * sample  # joined, and those of the device by themselves
        + state
        + training * trained
        + _STATISTICS * _bytes(manifest, "statistics")
        + buffers * _FLOAT
        + _SLACK
    )
    program = measured if measured is not None else _guessed(manifest, key)
    return Forecast(int(program), int(data), int(state + 2 * device + 2 * 65_536), measured is not None)


def _elements(tensors: Sequence[Tensor]) -> int:
    """Of all of a signature's inputs, or of its outputs."""
    return sum(math.prod(tensor.shape) for tensor in tensors)


def _bytes(manifest: Manifest, *kinds: str) -> int:
    """Of the state's tensors of these kinds."""
    return sum(math.prod(spec.shape) for spec in manifest.state if spec.kind in kinds) * _FLOAT


def check_room(found: Forecast, budget: Budget, taken_mb: float, folder: Path) -> None:
    """Refuses an update before it begins.

    Args:
        found: the forecast.
        budget: memory and disk; what is free on this machine counts too.
        taken_mb: how much of the forecast's program this process holds already, MiB.
        folder: of the state, whose disk must have room.

    Raises:
        CheckFailedError: battery, memory or disk won't do; the message has the estimate.
    """
    if not budget.has_power():
        raise CheckFailedError(
            f"the battery is below {budget.min_battery:.0%} and does not charge; the update was not begun and nothing "
            "was changed. Charge it, or lower the budget's min_battery"
        )
    need = max(0.0, found.memory / _MIB - min(taken_mb, found.program / _MIB))
    how = "" if found.measured else ", by a guess from the program's size"
    if budget.memory_mb is not None and need > budget.memory_mb:
        raise CheckFailedError(
            f"the update would need about {need:.0f} MiB{how}, more than its budget of {budget.memory_mb:g} MiB; it "
            "was not begun and nothing was changed. Raise the budget or build the bundle with a smaller batch"
        )
    free = available_mb()
    if free is not None and need > free:
        raise CheckFailedError(
            f"the update would need about {need:.0f} MiB{how}, and this machine has {free:.0f} MiB free; it was not "
            "begun and nothing was changed. End other programs or build the bundle with a smaller batch"
        )
    write = found.disk / _MIB
    if budget.disk_mb is not None and write > budget.disk_mb:
        raise CheckFailedError(
            f"the update would write {write:.1f} MiB, more than its budget of {budget.disk_mb:g} MiB; it was not begun "
            "and nothing was changed. Raise the budget"
        )
    room = shutil.disk_usage(folder).free
    if found.disk > room:
        raise CheckFailedError(
            f"the update would write {write:.1f} MiB, and the disk of {folder} has {room / _MIB:.1f} MiB free; it was "
            "not begun and nothing was changed. Free some space"
        )


def available_mb(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> float | None:
    """Memory that this process can still get, MiB: the system's, or what its control group leaves; None: not said."""
    free = []
    for line in _lines(meminfo):
        if line.startswith("MemAvailable:"):
            free.append(int(line.split()[1]) / 1024)
    for most, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        limit, now = (_number(cgroup / name) for name in (most, used))
        if limit is not None and now is not None:
            free.append(max(0.0, (limit - now) / _MIB))
    return min(free, default=None)


def _guessed(manifest: Manifest, runtime: str) -> int:
    """Where nobody measured: the program's constants twice, and four times the largest batch of latents or images."""
    file = manifest.runtimes[runtime].file
    size = sum(e.bytes for path, e in manifest.files.items() if path == file or path.startswith(file + "/"))
    batches = [math.prod(t.shape) for s in manifest.signatures.values() for t in s.inputs if t.source == "batch"]
    return 2 * size + 4 * max(batches, default=0) * _FLOAT


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _number(path: Path) -> int | None:
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].isdigit() else None
