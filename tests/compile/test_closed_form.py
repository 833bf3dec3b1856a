from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from against_autograd import FEW, double_precision, drawn
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from small_networks import assert_close
from torch import Tensor

from pocketstep.compile import closed_form, strips

__all__ = ["double_precision"]
pytestmark = pytest.mark.usefixtures("double_precision")


def accumulated(features: Tensor, labels: Tensor, weights: Tensor, slots: int) -> tuple[Tensor, ...]:
    size = features.shape[1]
    zero = torch.zeros(slots), torch.zeros(slots, size), torch.zeros(strips.second_shape(size))
    one_hot = F.one_hot(labels, slots).double()
    return closed_form.accumulate(*zero, features, one_hot, weights, size)


@pytest.fixture(scope="module")
def samples() -> tuple[Tensor, Tensor]:
    """60 samples of 3 of 5 classes, means apart, an uneven shared covariance."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (60,), generator=generator)
    spread = torch.randn(60, 7, generator=generator) @ torch.randn(7, 7, generator=generator)
    return torch.randn(3, 7, generator=generator)[labels] * 2 + spread, labels


@FEW
@given(st.integers(1, 12), st.floats(1, 300), st.integers(0, 99))
def test_inverse(size: int, condition: float, seed: int) -> None:
    basis, _ = torch.linalg.qr(drawn(size, size, seed=seed).detach())
    a = basis @ torch.diag(torch.logspace(0, -torch.tensor(condition).log10(), size)) @ basis.T
    assert_close(closed_form.inverse(a), torch.linalg.inv(a), f"inverse at condition {condition:.0f}", 1e-7)


def test_accumulate_gives_sums(samples: tuple[Tensor, Tensor]) -> None:
    features, labels = samples
    count, total, second = accumulated(features, labels, torch.ones(60), 5)
    assert count.tolist() == [*(float((labels == c).sum()) for c in range(3)), 0, 0]
    for c in range(5):
        assert_close(total[c], features[labels == c].sum(0), f"sum of class {c}", 1e-12)
    assert_close(strips.symmetric(second, 7), features.T @ features, "second moment", 1e-12)


@pytest.mark.parametrize("size", [1, 7, 8, 24, 37])
def test_little_more_than_half_of_the_second_moment_is_kept(size: int) -> None:
    features, weights = drawn(50, size, seed=size).detach(), torch.rand(50, 1)
    kept = strips.second_moment(features, weights)
    assert kept.shape == strips.second_shape(size)
    whole = -(-size // strips.STRIPS) * strips.STRIPS
    assert kept.numel() == whole**2 * 9 // 16
    assert_close(strips.symmetric(kept, size), (features * weights).T @ features, "second moment", 1e-12)


def test_order_of_samples_does_not_matter(samples: tuple[Tensor, Tensor]) -> None:
    features, labels = samples
    one_hot, order = F.one_hot(labels, 5).double(), torch.randperm(60, generator=torch.Generator().manual_seed(1))
    together = accumulated(features, labels, torch.ones(60), 5)
    parts = torch.zeros(5), torch.zeros(5, 7), torch.zeros(strips.second_shape(7))
    for rows in order.split(7):
        parts = closed_form.accumulate(*parts, features[rows], one_hot[rows], torch.ones(len(rows)), 7)
    for one, other in zip(parts, together, strict=True):
        assert_close(one, other, "statistics", 1e-12)


def test_a_negative_weight_takes_a_sample_out_again(samples: tuple[Tensor, Tensor]) -> None:
    features, labels = samples
    without = accumulated(features[:50], labels[:50], torch.ones(50), 5)
    one_hot = F.one_hot(labels, 5).double()
    everything = accumulated(features, labels, torch.ones(60), 5)
    taken = closed_form.accumulate(*everything, features[50:], one_hot[50:], -torch.ones(10), 7)
    assert relative_difference(everything[2], without[2]) > 1e-3
    for one, other in zip(taken, without, strict=True):
        assert_close(one, other, "statistics", 1e-12)


def relative_difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


@pytest.mark.parametrize("shrinkage", [0.05, 0.3])
def test_discriminant_is_lda(samples: tuple[Tensor, Tensor], shrinkage: float) -> None:
    features, labels = samples
    statistics = accumulated(features, labels, torch.ones(60), 5)
    mask = torch.tensor([1.0, 1, 1, 0, 0])
    weight, bias = closed_form.linear_head(*statistics, mask, torch.tensor([shrinkage]), torch.zeros(1))
    means = torch.stack([features[labels == c].mean(0) for c in range(3)])
    centred = features - means[labels]
    within = centred.T @ centred / 60
    level = within.diagonal().mean() * torch.eye(7)
    expected = torch.linalg.solve(within * (1 - shrinkage) + level * shrinkage, means.T).T
    assert_close(weight[:3], expected, "weight", 1e-6)
    assert_close(bias[:3], -0.5 * (expected * means).sum(1), "bias", 1e-6)
    assert (weight[3:] == 0).all()
    assert (bias[3:] == 0).all()


@pytest.mark.parametrize("shrinkage", [0.01, 0.3])
def test_ridge_is_least_squares(samples: tuple[Tensor, Tensor], shrinkage: float) -> None:
    """With an intercept that is not penalised, as scikit-learn's; the last class is empty, one does not exist."""
    features, labels = samples
    statistics = accumulated(features, labels, torch.ones(60), 5)
    mask = torch.tensor([1.0, 1, 1, 1, 0])
    weight, bias = closed_form.linear_head(*statistics, mask, torch.tensor([shrinkage]), torch.ones(1))
    centred, one_hot = features - features.mean(0), F.one_hot(labels, 5).double()
    spread = centred.T @ centred / 60
    penalty = shrinkage / (1 - shrinkage) * spread.diagonal().mean() * 60
    model = Ridge(alpha=float(penalty)).fit(features.numpy(), one_hot.numpy())
    expected = torch.from_numpy(model.coef_)
    assert_close(weight * (1 - shrinkage), expected, "weight", 1e-6)
    assert (weight[3:] == 0).all()
    assert_close(features @ weight.T + bias - (features.mean(0) @ weight.T + bias), centred @ weight.T, "linear", 1e-9)
    assert_close((features @ weight.T + bias).mean(0), one_hot.mean(0), "mean answer", 1e-6)


def test_full_shrinkage_is_the_nearest_class_mean(samples: tuple[Tensor, Tensor]) -> None:
    features, labels = samples
    statistics = accumulated(features, labels, torch.ones(60), 3)
    weight, bias = closed_form.linear_head(*statistics, torch.ones(3), torch.ones(1), torch.zeros(1))
    means = torch.stack([features[labels == c].mean(0) for c in range(3)])
    nearest = torch.cdist(features, means).argmin(1)
    assert (nearest != labels).any()  # so that equal decisions mean something
    assert torch.equal((features @ weight.T + bias).argmax(1), nearest)


def test_a_masked_class_does_not_count(samples: tuple[Tensor, Tensor]) -> None:
    """A class that is masked contributes no mean; its samples still shape the covariance's scatter."""
    features, labels = samples
    statistics = accumulated(features, labels, torch.ones(60), 3)
    weight, bias = closed_form.linear_head(*statistics, torch.tensor([1.0, 0, 1]), torch.tensor([0.1]), torch.zeros(1))
    assert (weight[1] == 0).all()
    assert bias[1] == 0
    assert (weight[[0, 2]] != 0).all()
