"""The generator of all that is random: so small that every harness draws the same numbers from the same seed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_MASK = 2**64 - 1
_GAMMA, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


class SplitMix64:
    """Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators": 64 bits of state.

    Args:
        seed: any whole number; its lowest 64 bits count.
    """

    def __init__(self, seed: int) -> None:
        self._state = seed & _MASK

    def next(self) -> int:
        """64 random bits."""
        self._state = (self._state + _GAMMA) & _MASK
        z = self._state
        z = ((z ^ (z >> 30)) * _FIRST) & _MASK
        z = ((z ^ (z >> 27)) * _SECOND) & _MASK
        return z ^ (z >> 31)

    def below(self, bound: int) -> int:
        """A whole number of 0 to ``bound`` - 1, for bounds up to 2^32 (as even as 32 bits make it)."""
        return ((self.next() >> 32) * bound) >> 32

    def permutation(self, count: int) -> npt.NDArray[np.int64]:
        """0 to ``count`` - 1 in random order (Fisher and Yates, from the last place down)."""
        result = list(range(count))
        for last in range(count - 1, 0, -1):
            other = self.below(last + 1)
            result[last], result[other] = result[other], result[last]
        return np.array(result, np.int64)


def uniform(seed: int, count: int) -> npt.NDArray[np.float32]:
    """Numbers from 0 to below 1, (count,): the highest 24 bits of as many draws of :class:`SplitMix64`, all at once."""
    z = np.uint64(seed & _MASK) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GAMMA)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(_FIRST)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(_SECOND)
    z ^= z >> np.uint64(31)
    return (z >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
