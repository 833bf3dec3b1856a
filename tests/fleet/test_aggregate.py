"""Averaging parts: what holds for any devices, and what hostile ones can do."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketstep.federate.aggregate import PLAIN, Contribution, Defence, aggregate
from pocketstep.federate.methods import METHODS, shared
from pocketstep_device.errors import InputError

CLASSES = ("cat", "dog")
NAMES = ("body", "head.weight@cat", "head.weight@dog", "head.bias@cat", "head.bias@dog")


def parts(value: float, *classes: str, body: bool = True) -> dict[str, np.ndarray]:
    made = {"body": np.full((3, 2), value, np.float32)} if body else {}
    for name in classes:
        made[f"head.weight@{name}"] = np.full((1, 2), value, np.float32)
        made[f"head.bias@{name}"] = np.full((1,), value, np.float32)
    return made


def device(sender: str, value: float, *classes: str, samples: float = 10, number: int = 1) -> Contribution:
    return Contribution(sender, number, parts(value, *classes), dict.fromkeys(("", *classes), samples))


CURRENT = parts(0.0, *CLASSES)
numbers = st.floats(-5, 5, width=32)
fleets = st.lists(
    st.tuples(numbers, st.sets(st.sampled_from(CLASSES), min_size=1), st.integers(1, 50)), min_size=1, max_size=7
).map(lambda found: [device(f"d{i}", v, *sorted(c), samples=n) for i, (v, c, n) in enumerate(found)])


@settings(max_examples=30, deadline=None)
@given(fleets, st.randoms(use_true_random=False))
def test_every_part_is_the_weighted_mean_of_its_holders(fleet: list[Contribution], random: object) -> None:
    """TeAM's critical-path average; the order of answers does not matter; what nobody holds stays."""
    outcome = aggregate(CURRENT, fleet, 1, PLAIN)
    assert not outcome.rejected
    for name in NAMES:
        holders = [d for d in fleet if name in d.parts]
        weights = [d.samples[name.partition("@")[2]] for d in holders]
        wanted = np.average([d.parts[name] for d in holders], axis=0, weights=weights) if holders else CURRENT[name]
        np.testing.assert_allclose(outcome.parts[name], wanted, rtol=1e-5, atol=1e-6)
        assert outcome.holders.get(name, 0) == len(holders)
    shuffled = list(fleet)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    again = aggregate(CURRENT, shuffled, 1, PLAIN).parts
    assert all(np.allclose(again[n], outcome.parts[n], atol=1e-6) for n in NAMES)


@settings(max_examples=30, deadline=None)
@given(fleets, st.sampled_from([Defence(), Defence(clip=0), Defence(trim=0), PLAIN]))
def test_no_value_leaves_the_range_of_its_holders(fleet: list[Contribution], defence: Defence) -> None:
    """Clipping shortens towards what was; so does trimming stay within."""
    outcome = aggregate(CURRENT, fleet, 1, defence)
    for name in NAMES:
        seen = [0.0, *(float(d.parts[name].flat[0]) for d in fleet if name in d.parts)]
        assert min(seen) - 1e-5 <= outcome.parts[name].min() <= outcome.parts[name].max() <= max(seen) + 1e-5
        assert outcome.parts[name].dtype == np.float32


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"parts": {"body": np.full((3, 2), np.nan, np.float32)}}, "not finite"),
        ({"parts": {"body": np.full((3, 2), np.inf, np.float32)}}, "not finite"),
        ({"parts": {"body": np.zeros((2, 3), np.float32)}}, "float32"),
        ({"parts": {"body": np.zeros((3, 2), np.float64)}}, "float32"),
        ({"parts": {"body": "weights"}}, "str"),
        ({"parts": {"optimiser": np.zeros((3, 2), np.float32)}}, "no part"),
        ({"parts": {}}, "nothing"),
        ({"parts": {"head.weight@new": np.zeros((1, 2), np.float32)}}, "lacks some"),
        ({"parts": {"head.weight@\n": np.zeros((1, 2), np.float32)}}, "no part"),
        ({"round": 0}, "round 0"),
        ({"round": 2}, "round 2"),
        ({"samples": {"": math.nan}}, "samples"),
        ({"samples": {"": -1.0}}, "samples"),
        ({"samples": {"": math.inf}}, "samples"),
    ],
)
def test_what_is_no_answer_is_rejected_and_the_round_goes_on(change: dict[str, object], reason: str) -> None:
    good = [device("a", 1.0, "cat"), device("b", 3.0, "cat")]
    bad = replace(device("evil", 9.0, "cat"), **change)  # type: ignore[arg-type]
    outcome = aggregate(CURRENT, [good[0], bad, good[1]], 1)
    assert reason in outcome.rejected["evil"]
    np.testing.assert_allclose(outcome.parts["body"], 2.0)
    assert aggregate(CURRENT, [bad], 1).parts.keys() == CURRENT.keys()


def test_late_answers_count_as_long_as_they_may() -> None:
    late = device("late", 1.0, "cat", number=3)
    assert aggregate(CURRENT, [late], 4).rejected
    assert not aggregate(CURRENT, [late], 4, Defence(max_age=1)).rejected


def test_a_device_answers_once() -> None:
    outcome = aggregate(CURRENT, [device("a", 1.0, "cat"), device("a", 5.0, "cat")], 1, PLAIN)
    assert outcome.rejected == {"a": "answered twice"}
    np.testing.assert_allclose(outcome.parts["body"], 1.0)


@pytest.mark.parametrize("factor", [-1.0, -10.0, 1e6])
@pytest.mark.parametrize("evil", [1, 2])
def test_sign_flips_and_huge_norms_are_bounded(factor: float, evil: int) -> None:
    """Two of ten at most: the result stays within what honest devices sent; the plain average does not."""
    random = np.random.default_rng(0)
    honest = [device(f"h{i}", 1.0 + 0.1 * random.standard_normal(), "cat") for i in range(10 - evil)]
    hostile = [device(f"e{i}", factor, "cat", samples=1e9) for i in range(evil)]
    values = [float(d.parts["body"][0, 0]) for d in honest]
    found = aggregate(CURRENT, [*honest, *hostile], 1)
    assert min(values) <= found.parts["body"].min() <= found.parts["body"].max() <= max(values)
    assert len(found.clipped) == (evil if abs(factor) > 3.5 else 0)
    plain = aggregate(CURRENT, [*honest, *hostile], 1, PLAIN).parts["body"]
    assert not min(values) <= plain.max() <= max(values)


def test_a_lonely_holder_is_bounded_by_the_others_norms() -> None:
    """Nobody else has this path, so nothing can be trimmed; its change is no longer than three times the usual."""
    fleet = [device("a", 0.1, "cat"), device("b", 0.1, "cat"), device("evil", 1e4, "dog")]
    outcome = aggregate(CURRENT, fleet, 1)
    usual = math.sqrt(sum(float((p**2).sum()) for p in fleet[0].parts.values()))
    assert np.linalg.norm(outcome.parts["head.weight@dog"]) <= 3 * usual
    assert set(outcome.clipped) == {"evil"}


def test_new_classes_merge_by_name() -> None:
    fleet = [device("a", 1.0, "mug"), device("b", 3.0, "mug", samples=30), device("c", 5.0, "cat")]
    outcome = aggregate(CURRENT, fleet, 1, PLAIN)
    assert outcome.found == ("mug",)
    np.testing.assert_allclose(outcome.parts["head.weight@mug"], 2.5)
    np.testing.assert_allclose(outcome.parts["head.weight@cat"], 5.0)
    assert aggregate(outcome.parts, fleet, 1, PLAIN).found == ()


def test_which_parts_each_method_shares() -> None:
    names = {method: shared(method, NAMES, {"cat"}) for method in METHODS}
    assert names["fedavg"] == list(NAMES)
    assert names["critical-paths"] == ["body", "head.weight@cat", "head.bias@cat"]
    assert names["fedper"] == names["fedrep"] == ["body"]
    assert names["lg-fedavg"] == list(NAMES[1:])
    with pytest.raises(InputError, match="critical-paths"):
        shared("fedprox", NAMES, set())
