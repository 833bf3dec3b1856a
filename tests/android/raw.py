"""Arrays as the Kotlin tests read and write them: one line ``dtype size size …``, then the bytes, little-endian."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def write_raw(path: Path, array: Any) -> None:
    """Keeps uint8 and float32 arrays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = " ".join([array.dtype.name, *map(str, array.shape)])
    path.write_bytes(line.encode() + b"\n" + np.ascontiguousarray(array).tobytes())


def read_raw(path: Path) -> Any:
    """The array that :func:`write_raw`, or its Kotlin twin, wrote."""
    line, _, data = path.read_bytes().partition(b"\n")
    dtype, *shape = line.decode().split()
    return np.frombuffer(data, dtype).reshape([int(size) for size in shape])
