"""Which signatures of a program are in memory: what all of a learner's work needs, and the last one besides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
KEPT = "classify"
"""The signature that observing, every phase of an update and its judge call in between."""


class Loaded(Generic[T]):
    """Signatures, loaded when they are called.

    Each holds its own packed weights and arena, so that one which a learner is done with gives way to the next:
    ``encode`` is needed while images are observed, ``score`` once an update, ``step`` while it trains.

    Args:
        load: makes a signature ready.
    """

    def __init__(self, load: Callable[[str], T]):
        self._load, self._held = load, dict[str, T]()

    def __contains__(self, signature: str) -> bool:
        return signature in self._held

    def get(self, signature: str) -> T:
        """A signature; another one than :data:`KEPT` takes the place of the last such one, which goes first."""
        if signature not in self._held:
            for other in [name for name in self._held if KEPT not in (name, signature)]:
                del self._held[other]
            self._held[signature] = self._load(signature)
        return self._held[signature]
