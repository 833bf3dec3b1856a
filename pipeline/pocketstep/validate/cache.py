"""The cache folder: what takes long to fetch or make, under a name that says what it was made from."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/pocketstep``, else ``~/.cache/pocketstep``."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "pocketstep"


def key(*parts: str) -> str:
    """12 hex digits that stand for all the parts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """A folder of the cache, made at the first call.

    Args:
        name: where, below the cache folder; names what it was made from.
        make: fills an empty folder, which takes its place only when that has ended well.
    """
    folder = cache_folder() / name
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock(folder):
        if not folder.is_dir():
            fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
            try:
                make(fresh)
                fresh.chmod(0o755)
                fresh.rename(folder)
            except BaseException:
                shutil.rmtree(fresh, ignore_errors=True)
                raise
    return folder


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """One process makes a folder; others wait for it."""
    with folder.with_name(f".{folder.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
