"""Noise that hides a device: how much, where, and that a round with it survives what any round survives."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest

pytest.importorskip("flwr", reason="Flower is an extra: pip install 'pocketstep[fleet]'")

import toys
from flwr.app import ConfigRecord, Message

from pocketstep.federate.aggregate import Contribution, aggregate
from pocketstep.federate.privacy import Privacy, hidden
from pocketstep.federate.records import reply, to_arrays
from pocketstep.federate.strategy import PartsAverage
from pocketstep_device.errors import InputError

SIZE = 20_000
CURRENT = {f"path@{name}": np.zeros(SIZE, np.float32) for name in ("cat", "dog", "cow")}


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """Flower's helper draws from numpy's global generator."""
    state = np.random.get_state()
    np.random.seed(0)
    yield
    np.random.set_state(state)


def device(sender: str, value: float, *classes: str, samples: float = 10) -> Contribution:
    parts = {f"path@{name}": np.full(SIZE, value, np.float32) for name in classes}
    return Contribution(sender, 1, parts, dict.fromkeys(("", *classes), samples))


def test_noise_is_a_devices_share_of_the_norm_and_only_where_devices_changed_something() -> None:
    privacy = Privacy(noise=0.5, norm=2.0)
    fleet = [device(f"d{i}", 0.0, "cat") for i in range(4)] + [device("e", 0.0, "cat", "dog")]
    outcome = aggregate(CURRENT, fleet, 1, privacy.defence)
    found = hidden(outcome.parts, outcome.holders, privacy)
    assert found["path@cat"].std() == pytest.approx(0.5 * 2.0 / 5, rel=0.05)
    assert found["path@dog"].std() == pytest.approx(0.5 * 2.0 / 1, rel=0.05)
    assert abs(found["path@cat"].mean()) < 0.01
    assert np.array_equal(found["path@cow"], CURRENT["path@cow"])
    assert all(part.dtype == np.float32 for part in found.values())
    assert not outcome.parts["path@cat"].any()  # what was averaged is not changed in place


@pytest.mark.parametrize("samples", [1.0, 1e9])
@pytest.mark.parametrize("value", [1e6, -1e6, 1e-3])
def test_a_device_moves_the_private_average_by_no_more_than_the_noise_is_made_for(value: float, samples: float) -> None:
    """In units of norm / holders, part by part, whatever it sends and however many samples it claims."""
    privacy = Privacy(noise=1.0, norm=2.0)
    others = [device("a", 0.01, "cat", "dog"), device("b", -0.02, "cat"), device("c", 0.0, "dog")]
    calm = aggregate(CURRENT, [*others, device("x", 0.0, "cat", "dog")], 1, privacy.defence)
    loud = aggregate(CURRENT, [*others, device("x", value, "cat", "dog", samples=samples)], 1, privacy.defence)
    moves = [(loud.parts[n] - calm.parts[n]).astype(np.float64) * k / privacy.norm for n, k in loud.holders.items()]
    assert 0 < math.sqrt(sum(float((move**2).sum()) for move in moves)) <= 1 + 1e-4
    assert all(move.sum() * value > 0 for move in moves)


@pytest.mark.parametrize(("noise", "norm"), [(-1.0, 1.0), (math.nan, 1.0), (1.0, 0.0), (1.0, math.inf)])
def test_noise_that_would_hide_nothing_is_refused(noise: float, norm: float) -> None:
    with pytest.raises(InputError, match="positive"):
        Privacy(noise, norm)


def test_the_strategy_hides_devices_and_survives_hostile_ones() -> None:
    """Different parts from every device, and answers that are none: what ends a run of Flower's own wrapper."""
    strategy = PartsAverage(least=1, privacy=Privacy(noise=1.0, norm=1.0))
    answers = [({"path@cat": CURRENT["path@cat"]}, {"cat": 5}), ({"path@dog": CURRENT["path@dog"]}, {"dog": 5})]
    bad = ({"path@cat": np.full(SIZE, np.nan, np.float32)}, {"cat": 5})
    grid = _Answers([*answers, bad])
    found = strategy.start(grid, to_arrays(CURRENT), num_rounds=1)  # type: ignore[arg-type]
    assert (strategy.rounds[0].used, strategy.rounds[0].rejected) == (2, 1)
    arrays = {name: array.numpy() for name, array in found.arrays.items()}
    assert arrays["path@cat"].std() == pytest.approx(1.0, rel=0.05)
    assert not arrays["path@cow"].any()


class _Answers:
    """A grid whose devices give fixed answers."""

    def __init__(self, answers: list[tuple[dict[str, np.ndarray], dict[str, int]]]) -> None:
        toys.grid({})  # whom messages are from
        self.answers = answers

    def get_node_ids(self) -> list[int]:
        return list(range(1, len(self.answers) + 1))

    def send_and_receive(self, messages: list[Message], timeout: float | None = None) -> list[Message]:
        return [Message(content=reply(*self.answers[m.metadata.dst_node_id - 1], 1, {}), reply_to=m) for m in messages]


def test_flowers_own_wrapper_wants_the_same_arrays_of_all() -> None:
    """Why it is not used: two devices with other parts end its run. When this fails, look at it again."""
    from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping

    inner = PartsAverage(least=1)
    wrapped = DifferentialPrivacyServerSideFixedClipping(inner, 1.0, 1.0, 2)
    grid = _Answers([({"path@cat": CURRENT["path@cat"]}, {"cat": 5}), ({"path@dog": CURRENT["path@dog"]}, {"dog": 5})])
    arrays = to_arrays(CURRENT)
    asked = list(wrapped.configure_train(1, arrays, ConfigRecord(), grid))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"longer|shorter"):
        wrapped.aggregate_train(1, grid.send_and_receive(asked))
