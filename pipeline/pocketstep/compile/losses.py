"""Losses, each a weighted mean over the batch with its gradient written out, of what the delegate takes.

Over class slots only those that the mask says exist count. The gradient of the softmax losses with respect to the
logits is a difference of two softmaxes, so that the backward needs no logarithm.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pocketstep.compile.operators import product, row_sums

ABSENT = 1e4  # taken from the logit of a class that does not exist: its probability is exactly zero in fp32
SMALLEST = 1e-30
NEAR = 1e-3  # a distance of logits that counts as none


def masked(logits: Tensor, mask: Tensor) -> Tensor:
    """Logits (B, slots) with absent classes (mask 0) far below every present one (mask 1)."""
    return logits + (mask - 1.0) * ABSENT


def _shares(weights: Tensor) -> Tensor:
    """Weights (B,) as a row (1, B) that sums to one; all-zero weights stay zero."""
    row = weights.reshape(1, -1)
    return row / row_sums(row).clamp(min=1e-6)


def _divergence(target: Tensor, probabilities: Tensor, shares: Tensor) -> Tensor:
    """Weighted mean of -sum(target * log probabilities), (1,)."""
    return -product(shares, row_sums(target * _logarithm(probabilities))).reshape(1)


def _logarithm(probabilities: Tensor) -> Tensor:
    return torch.log(probabilities.clamp(min=SMALLEST))


class CrossEntropy(torch.autograd.Function):
    """Softmax cross-entropy over the classes that exist (ODIL's L_C), a weighted mean over the batch, (1,).

    Inputs: logits (B, slots); labels (B, slots), one-hot, rows of padding zero; mask (slots,), 1 for a class that
    exists; weights (B,), 0 for padding. Gradient: share * (softmax - label).
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
        probabilities = torch.softmax(masked(logits, mask), 1)
        shares = _shares(weights)
        ctx.save_for_backward(probabilities, labels, shares)
        return _divergence(labels, probabilities, shares)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None]:
        probabilities, labels, shares = ctx.saved_tensors
        return (probabilities - labels) * (shares * g).reshape(-1, 1), None, None, None


class Distillation(torch.autograd.Function):
    """Divergence of the old classes' softened outputs from the cached ones, times T squared, (1,).

    ODIL's L_Df (cross-entropy of softened outputs) less the targets' entropy, which has no gradient; T squared keeps
    the gradient's size independent of T (Hinton et al. 2015, section 2).

    Inputs: logits (B, slots); soft_targets (B, slots), logits of the teacher or of the device before the update; mask
    (slots,), 1 for a class that is distilled; temperature (1,); weights (B,), 0 where there is no target.
    Gradient: share * T * (softmax(logits / T) - softmax(soft_targets / T)).
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, soft_targets: Tensor, mask: Tensor, temperature: Tensor, weights: Tensor
    ) -> Tensor:
        target = torch.softmax(masked(soft_targets / temperature, mask), 1)
        ours = torch.softmax(masked(logits / temperature, mask), 1)
        shares = _shares(weights)
        ctx.save_for_backward(target, ours, shares, temperature)
        difference = _logarithm(target) - _logarithm(ours)  # term by term: two sums would cancel where little is left
        return product(shares, row_sums(target * difference)).reshape(1) * (temperature * temperature)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None, None]:
        target, ours, shares, temperature = ctx.saved_tensors
        return (ours - target) * (shares * (g * temperature)).reshape(-1, 1), None, None, None, None


class LogitDistance(torch.autograd.Function):
    """Distance of the logits from the cached ones (Zhao et al. 2022, section 4.1, J1), a weighted mean over the batch.

    The paper's root of the sum of squares, over the classes that the teacher knows. ``NEAR`` squared under the root
    lets the gradient fade where the distance is nothing but rounding, as in the first step from the device's own
    targets.

    Inputs: logits (B, slots); targets (B, slots); mask (slots,), 1 for a class that the teacher knows; weights (B,), 0
    where there is no target. Gradient: share * difference / distance.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
        difference = (logits - targets) * mask
        distance = torch.sqrt(row_sums(difference * difference) + NEAR * NEAR)
        shares = _shares(weights)
        ctx.save_for_backward(difference, distance, shares)
        return product(shares, distance).reshape(1)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None]:
        difference, distance, shares = ctx.saved_tensors
        return difference * ((shares * g).reshape(-1, 1) / distance), None, None, None


class FeatureDistance(torch.autograd.Function):
    """Squared distance of l2-normalised features from the cached ones, a weighted mean over the batch, (1,).

    Zhao et al. 2022, section 4.1, equation 4 and Jb, on pooled features. The paper takes the root; without it the
    loss is 2 (1 - cosine), its equation 3, and has a gradient where both agree.

    Inputs: features (B, D) and targets (B, L), both of any norm; the features are padded with zeros to L >= D, as the
    paper does for a thinner student; weights (B,), 0 where there is no target. Gradient, with q the unit features, t
    the unit targets and d = 2 share (q - t): (d - q (q . d)) / |features|, of the first D.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        ctx.size = features.shape[1]
        spare = targets.shape[1] - ctx.size
        unit, scale = _unit(F.pad(features, (0, spare)) if spare else features)
        difference = unit - _unit(targets)[0]
        shares = _shares(weights)
        ctx.save_for_backward(unit, scale, difference, shares)
        return product(shares, row_sums(difference * difference)).reshape(1)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        unit, scale, difference, shares = ctx.saved_tensors
        towards = difference * (shares * (g * 2.0)).reshape(-1, 1)
        gradient = (towards - unit * row_sums(unit * towards)) * scale
        return gradient[:, : ctx.size] if ctx.size < gradient.shape[1] else gradient, None, None


def _unit(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (B, D) scaled to length one, and the scales (B, 1)."""
    scale = torch.rsqrt(row_sums(x * x) + 1e-12)
    return x * scale, scale
