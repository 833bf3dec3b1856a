"""The quadratic discriminant against scikit-learn's and torch's densities, in double precision."""

from __future__ import annotations

import pytest
import torch
from against_autograd import FEW, double_precision
from hypothesis import given
from hypothesis import strategies as st
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from small_networks import assert_close
from torch import Tensor
from torch.distributions import MultivariateNormal

from pocketstep.compile import class_covariances, closed_form, strips
from pocketstep.compile.class_covariances import EQUAL_SAMPLES, count_directions, directions_of, turned, with_places

__all__ = ["double_precision"]
pytestmark = pytest.mark.usefixtures("double_precision")
SIZE, CLASSES, SAMPLES = 20, 3, 400


@pytest.fixture(scope="module")
def samples() -> tuple[Tensor, Tensor]:
    """Three classes of close means that differ in spread."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(CLASSES * SAMPLES) % CLASSES
    means = torch.randn(CLASSES, SIZE, generator=generator) * 0.3
    shapes = torch.randn(CLASSES, SIZE, SIZE, generator=generator) * 0.3 + torch.eye(SIZE)
    noise = torch.randn(len(labels), SIZE, generator=generator)
    features = (means[labels] + torch.einsum("nd,nde->ne", noise, shapes[labels])).double()
    return features - features.mean(0), labels


def sums(seen: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Statistics of samples, one each."""
    zeros = torch.zeros(CLASSES), torch.zeros(CLASSES, seen.shape[1]), torch.zeros(strips.second_shape(SIZE))
    one_hot = torch.nn.functional.one_hot(labels, CLASSES).double()
    return closed_form.accumulate(*zeros, seen, one_hot, torch.ones(len(labels)), SIZE)


def head(features: Tensor, labels: Tensor, directions: Tensor, own: float, shrinkage: float = 0.0) -> Tensor:
    """Logits of the samples by a head learned of them, (N, CLASSES)."""
    seen = with_places(features, directions)
    weight, bias = closed_form.linear_head(
        *sums(seen, labels),
        torch.ones(CLASSES),
        torch.tensor([shrinkage]),
        torch.zeros(1),
        torch.tensor([own]),
        directions,
    )
    return seen @ weight.T + bias


@FEW
@given(st.integers(1, 3), st.integers(1, 24), st.integers(0, 99))
def test_strips_of_single_samples(count: int, size: int, seed: int) -> None:
    x = torch.randn(count, size, generator=torch.Generator().manual_seed(seed))
    kept = strips.outer_products(x)
    assert kept.shape == (count, strips.kept_values(size))
    assert_close(strips.symmetric_each(kept, size), x[:, :, None] * x[:, None], "outer products", 1e-12)
    matrices = torch.randn(count, size, size, generator=torch.Generator().manual_seed(seed + 1))
    matrices = matrices + matrices.transpose(1, 2)
    weights = strips.quadratic_weights(matrices)
    assert_close((weights * kept).sum(1), torch.einsum("nd,nde,ne->n", x, matrices, x), "x' M x", 1e-9)


@FEW
@given(st.integers(1, 4), st.integers(1, 24), st.integers(0, 99))
def test_inverse_and_log_determinant(count: int, size: int, seed: int) -> None:
    root = torch.randn(count, size, size, generator=torch.Generator().manual_seed(seed))
    matrices = root @ root.transpose(1, 2) + 0.1 * torch.eye(size)
    inverses, logs = class_covariances.inverse_and_log_determinant(matrices)
    assert_close(inverses, torch.linalg.inv(matrices), "inverses", 1e-8)
    assert_close(logs[:, 0], torch.logdet(matrices), "log determinants", 1e-8)


def test_it_is_the_log_ratio_of_normal_densities(samples: tuple[Tensor, Tensor]) -> None:
    features, labels = samples
    directions = directions_of(features, 8)
    assert directions.shape == (8, SIZE)
    found = head(features, labels, directions, 1.0) - head(features, labels, directions, 0.0)
    places = features @ directions.T
    means = torch.stack([features[labels == c].mean(0) for c in range(CLASSES)])
    within = (features - means[labels]).T @ (features - means[labels]) / len(features)
    shared, share = directions @ within @ directions.T, SAMPLES / (SAMPLES + EQUAL_SAMPLES)
    for c in range(CLASSES):
        own = torch.cov(places[labels == c].T, correction=0)
        middle = places[labels == c].mean(0)
        densities = [
            MultivariateNormal(middle, s).log_prob(places) for s in ((1 - share) * shared + share * own, shared)
        ]
        assert_close(found[:, c], densities[0] - densities[1], f"class {c}", 1e-8)


def test_with_all_directions_it_nears_the_quadratic_discriminant(samples: tuple[Tensor, Tensor]) -> None:
    """Along every axis, and with nothing of the shared covariance, it decides as scikit-learn's does."""
    features, labels = samples
    everything = torch.linalg.inv(torch.linalg.cholesky(torch.cov(features.T)))
    logits = head(features, labels, everything, (SAMPLES + EQUAL_SAMPLES) / SAMPLES)
    theirs = QuadraticDiscriminantAnalysis(priors=[1 / CLASSES] * CLASSES).fit(features.numpy(), labels.numpy())
    agreement = (torch.from_numpy(theirs.predict(features.numpy())) == logits.argmax(1)).double().mean()
    linear = (head(features, labels, everything, 0.0).argmax(1) == labels).double().mean()
    assert agreement > 0.99
    assert (logits.argmax(1) == labels).double().mean() > linear + 0.1


def test_without_it_the_discriminant_is_linear(samples: tuple[Tensor, Tensor]) -> None:
    features, labels = samples
    directions = directions_of(features, 8)
    seen = with_places(features, directions)
    known = sums(features, labels)
    weight, bias = closed_form.linear_head(*known, torch.ones(CLASSES), torch.tensor([0.05]), torch.zeros(1))
    assert seen.shape[1] == SIZE + class_covariances.added(8)
    assert_close(head(features, labels, directions, 0.0, 0.05), features @ weight.T + bias, "logits", 1e-12)


def test_a_class_of_few_samples_keeps_all_near_the_linear_discriminant(samples: tuple[Tensor, Tensor]) -> None:
    features, labels = samples
    directions = directions_of(features, 8)
    whole = (head(features, labels, directions, 1.0) - head(features, labels, directions, 0.0)).abs().mean()
    few = (labels != 2) | (torch.arange(len(labels)) < 3)
    features, labels = features[few], labels[few]
    rest = (head(features, labels, directions, 1.0) - head(features, labels, directions, 0.0)).abs().mean()
    assert rest < 0.05 * whole


@pytest.mark.parametrize(
    ("wanted", "size", "slots", "count"),
    [
        (None, 512, 100, 64),
        (None, 512, 1000, 16),
        (None, 40, 10, 16),
        (None, 10, 10, 0),
        (32, 512, 5000, 32),
        (0, 512, 9, 0),
    ],
)
def test_how_many_directions(wanted: int | None, size: int, slots: int, count: int) -> None:
    assert count_directions(wanted, size, slots) == count


def test_directions_that_images_do_not_have() -> None:
    features = torch.randn(200, 3) @ torch.randn(3, SIZE)
    assert len(directions_of(features - features.mean(0), 8)) == 0
    features = torch.randn(200, 12) @ torch.randn(12, SIZE)
    found = directions_of(features - features.mean(0), 16)
    assert len(found) == 8
    assert_close(torch.cov((features @ found.T).T, correction=0), torch.eye(8), "variances", 1e-9)


def test_turned_directions_say_the_same_along_axes_of_their_own(samples: tuple[Tensor, Tensor]) -> None:
    features, labels = samples
    directions = directions_of(features, 8)
    found = turned(directions, features, labels)
    own = [head(features, labels, axes, 1.0, 0.05) for axes in (directions, found)]
    assert_close(own[1], own[0], "logits", 1e-8)
    means = torch.stack([features[labels == c].mean(0) for c in range(CLASSES)])
    within = (features - means[labels]).T @ (features - means[labels])
    for name, matrix in {"shared": within, "of all": features.T @ features}.items():
        there = found @ matrix @ found.T
        assert_close(there, torch.diag(there.diagonal()), f"covariance {name}", 1e-9)
