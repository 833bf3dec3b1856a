from __future__ import annotations

import numpy as np
import pytest

from pocketstep_device.shuffle import SplitMix64


def test_known_numbers() -> None:
    """The reference implementation's first numbers (Vigna's splitmix64.c) for seeds 0 and 1234567."""
    generator = SplitMix64(0)
    assert [generator.next() for _ in range(3)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    generator = SplitMix64(1234567)
    assert [generator.next() for _ in range(2)] == [6457827717110365317, 3203168211198807973]


def test_seeds_wrap() -> None:
    assert SplitMix64(-1).next() == SplitMix64(2**64 - 1).next()


@pytest.mark.parametrize("bound", [1, 2, 7, 1000, 2**32])
def test_below_is_below_and_even(bound: int) -> None:
    generator = SplitMix64(3)
    found = np.array([generator.below(bound) for _ in range(2000)])
    assert found.min() >= 0
    assert found.max() < bound
    assert abs(found.mean() / max(1, bound - 1) - 0.5) < 0.05 or bound == 1
