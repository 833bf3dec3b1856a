from __future__ import annotations

import math

import pytest

from pocketstep_device.judge import Verdict, standard_error
from pocketstep_device.manifest import Accept

ACCEPT = Accept(max_old_loss=0.03, max_class_loss=0.5)


def verdict(old: float, count: int = 400, **by_class: tuple[float, int]) -> Verdict:
    return Verdict(old, math.nan, (old, old), count, {int(slot[1:]): value for slot, value in by_class.items()})


def test_small_losses_are_accepted() -> None:
    assert verdict(0.9).refusal(verdict(0.9), ACCEPT) == ""
    assert verdict(0.87).refusal(verdict(0.9), ACCEPT) == ""


def test_the_mean_may_not_fall_too_far() -> None:
    """Below the limit by more than the standard error, 1.5 points of 400 samples."""
    assert verdict(0.856).refusal(verdict(0.9), ACCEPT) == ""
    assert "lost more than 3% on known classes (90.0% to 85.4%)" in verdict(0.854).refusal(verdict(0.9), ACCEPT)
    assert "known classes" in verdict(0.86).refusal(verdict(0.9, 10**6), ACCEPT)


def test_no_class_may_be_lost() -> None:
    before = verdict(0.9, c3=(0.9, 10), c4=(1.0, 10))
    assert verdict(0.89, c3=(0.4, 10), c4=(0.5, 10)).refusal(before, ACCEPT) == ""
    assert "on class 4 (100.0% to 40.0%)" in verdict(0.89, c3=(0.9, 10), c4=(0.4, 10)).refusal(before, ACCEPT)
    assert verdict(0.89).refusal(before, ACCEPT) == ""  # too few samples of it to say


@pytest.mark.parametrize(("share", "count", "error"), [(0.5, 100, 0.05), (1.0, 7, 0.0), (0.3, 0, 0.0)])
def test_standard_error(share: float, count: int, error: float) -> None:
    assert standard_error(share, count) == pytest.approx(error)
