"""The generator of an update's batches: so small that every harness draws the same numbers from the same seed."""

from __future__ import annotations

_MASK = 2**64 - 1


class SplitMix64:
    """Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators": 64 bits of state.

    Args:
        seed: any whole number; its lowest 64 bits count.
    """

    def __init__(self, seed: int) -> None:
        self._state = seed & _MASK

    def next(self) -> int:
        """64 random bits."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        z = self._state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return z ^ (z >> 31)

    def below(self, bound: int) -> int:
        """A whole number of 0 to ``bound`` - 1, for bounds up to 2^32 (as even as 32 bits make it)."""
        return ((self.next() >> 32) * bound) >> 32
