"""Methods on the same frozen features that no bundle ships: what ours are compared with. PyTorch, no program.

Each takes features (N, D) float32 and labels (N,) of all classes seen so far, keeps what its paper lets it keep, and
gives scores (M, classes) of test features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Scores = Callable[[Tensor, Tensor, Tensor, list[int]], Tensor]


@dataclass(frozen=True)
class Rival:
    """A method: how it scores, and how many floats it keeps of ``size`` features and ``classes``."""

    scores: Scores
    kept: Callable[[int, int], int]


EPOCHS, LEAST, BATCH, RATE = 8, 200, 256, 0.01
SHRINKAGE = 1.0
"""FeCAM's gamma_1 and gamma_2, as a share of the mean variance and of the mean covariance."""


def fetril(features: Tensor, labels: Tensor, test: Tensor, seen: list[int]) -> Tensor:
    """FeTrIL (Petit et al. 2023): old classes are new images' features moved to the old mean; a linear head on these.

    The nearest new class lends its features to each old one; only class means are kept (D floats a class).
    """
    before, after = seen[-2:] if len(seen) > 1 else (0, seen[-1])
    unit = F.normalize(features, dim=1)
    means = torch.stack([unit[labels == c].mean(0) for c in range(after)])
    own = labels >= before
    rows, targets = [unit[own]], [labels[own]]
    for old in range(before):
        lender = before + int((means[before:] @ means[old]).argmax())
        lent = unit[labels == lender]
        rows.append(lent - means[lender] + means[old])
        targets.append(torch.full((len(lent),), old))
    head = _linear(torch.cat(rows), torch.cat(targets), after)
    scores: Tensor = head(F.normalize(test, dim=1))
    return scores


@torch.no_grad()
def fecam(features: Tensor, labels: Tensor, test: Tensor, seen: list[int]) -> Tensor:
    """FeCAM (Goswami et al. 2023): Mahalanobis distance with a covariance of each class (D^2 floats a class).

    Features to the power of one half (Tukey), covariances shrunk and normalised to correlations.
    """
    x, y = features.clamp(min=0).sqrt(), test.clamp(min=0).sqrt()
    scores = []
    for c in range(seen[-1]):
        own = x[labels == c]
        mean, covariance = own.mean(0), torch.cov(own.T)
        variance = covariance.diagonal().mean()
        off = (covariance.sum() - covariance.diagonal().sum()) / (len(covariance) * (len(covariance) - 1))
        eye = torch.eye(len(covariance))
        shrunk = covariance + SHRINKAGE * variance * eye + SHRINKAGE * off * (1 - eye)
        deviation = shrunk.diagonal().sqrt()
        inverse = torch.linalg.inv(shrunk / torch.outer(deviation, deviation))
        d = F.normalize(y, dim=1) - F.normalize(mean, dim=0)
        scores.append(-(d @ inverse * d).sum(1))
    return torch.stack(scores, 1)


RIVALS = {
    "FeTrIL": Rival(fetril, lambda size, classes: size * classes),
    "FeCAM": Rival(fecam, lambda size, classes: (size + size * size) * classes),
}


def _linear(x: Tensor, labels: Tensor, classes: int) -> nn.Linear:
    """A linear head by Adam, rate falling to zero along a cosine."""
    generator = torch.Generator().manual_seed(0)
    head = nn.Linear(x.shape[1], classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimiser = torch.optim.Adam(head.parameters(), RATE)
    steps = max(LEAST, EPOCHS * (len(x) // BATCH))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        rows = torch.randint(len(x), (BATCH,), generator=generator)
        loss = F.cross_entropy(head(x[rows]) * 4, labels[rows])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    return head.eval().requires_grad_(False)
