"""Where a training run keeps itself, so that a run that was killed goes on with the same result."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pocketstep_device.errors import InputError
from pocketstep_device.storage import write_atomically


@dataclass(frozen=True)
class Saved:
    """What was kept: tensors by name, and facts as JSON has them."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


class Checkpoint:
    """One file (safetensors: no pickle), replaced as a whole; ``identity`` says which run it belongs to.

    Args:
        path: the file; its folder must exist.
        identity: of the run; a file of another run is not resumed from, and is replaced.
        seconds: between two saves within an epoch.
    """

    def __init__(self, path: Path, identity: str, seconds: float = 30.0) -> None:
        self.path, self.identity, self.seconds = path, identity, seconds
        self._last = time.monotonic()

    def load(self) -> Saved | None:
        """What the same run kept, if anything.

        Raises:
            InputError: the file is damaged.
        """
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                facts = json.loads((file.metadata() or {})["facts"])
                if facts.pop("identity") != self.identity:
                    return None
                return Saved({name: file.get_tensor(name) for name in file.keys()}, facts)  # noqa: SIM118
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"cannot go on from {self.path} ({error}): delete it to start this training anew"
            ) from error

    @property
    def due(self) -> bool:
        """Whether it is time to save again."""
        return time.monotonic() - self._last >= self.seconds

    def save(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Replaces the file."""
        kept = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        metadata = {"facts": json.dumps({**facts, "identity": self.identity})}
        write_atomically(self.path, save(kept, metadata))
        self._last = time.monotonic()


def digest(*parts: object) -> str:
    """A hash of tensors (shape, dtype, values) and of anything that JSON can say."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            found.update(f"{tuple(part.shape)} {part.dtype}".encode())
            found.update(part.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        else:
            found.update(json.dumps(part).encode())
    return found.hexdigest()
