"""``project`` against eigenvectors, and what it is for: an update that leaves answers to known inputs alone."""

from __future__ import annotations

import pytest
import torch
from against_autograd import FEW, double_precision, drawn
from hypothesis import given
from hypothesis import strategies as st
from small_networks import assert_close
from torch import Tensor

from pocketstep.compile import projection

__all__ = ["double_precision"]
pytestmark = pytest.mark.usefixtures("double_precision")
HARD, SOFT = torch.ones(1), torch.zeros(1)


def projector(covariance: Tensor, hard: Tensor, ratio: float = 0.05, tau: float = 0.1) -> Tensor:
    return projection.projector(covariance, hard, torch.tensor([ratio]), torch.tensor([tau]))


@FEW
@given(st.integers(2, 12), st.integers(0, 99), st.data())
def test_hard_is_the_null_space(size: int, seed: int, data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, size - 1))
    basis, _ = torch.linalg.qr(drawn(size, size, seed=seed))
    values = torch.cat([torch.linspace(1, 3, rank), torch.zeros(size - rank)])
    found = projector(basis @ torch.diag(values) @ basis.T, HARD)
    null = basis[:, rank:]
    assert_close(found, null @ null.T, "null space", 1e-6)


@FEW
@given(st.integers(1, 12), st.integers(0, 99), st.floats(0.1, 10))
def test_soft_is_an_inverse(size: int, seed: int, tau: float) -> None:
    x = drawn(2 * size, size, seed=seed)
    covariance = x.T @ x
    level = covariance.trace() / size
    expected = torch.linalg.inv(torch.eye(size) + covariance / (level * tau))
    assert_close(projector(covariance, SOFT, tau=tau), expected, "soft projector", 1e-6)


@pytest.mark.parametrize("hard", [HARD, SOFT])
def test_nothing_seen_projects_nothing(hard: Tensor) -> None:
    assert_close(projector(torch.zeros(5, 5), hard), torch.eye(5), "identity", 1e-9)


def test_projected_updates_leave_known_answers_alone() -> None:
    known, new = drawn(50, 3) @ drawn(3, 8, seed=1), drawn(50, 8, seed=2)
    update = drawn(8, 4, seed=3)
    kept = projector(known.T @ known, HARD) @ update
    assert float((known @ kept).abs().max()) < 1e-6 * float((known @ update).abs().max())
    assert float((new @ kept).abs().max()) > 0.1 * float((new @ update).abs().max())
    faded = projector(known.T @ known, SOFT) @ update
    assert float((known @ faded).abs().max()) < 0.5 * float((known @ update).abs().max())
