"""Losses over class slots, of which only the unmasked ones exist; each with its gradient written out.

The gradient of both losses with respect to the logits is a difference of two softmaxes, so the backward needs no
logarithm and stays inside the delegate.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pocketstep.compile.operators import product, row_sums

ABSENT = 1e4  # taken from the logit of a class that does not exist: its probability is exactly zero in fp32
SMALLEST = 1e-30


def masked(logits: Tensor, mask: Tensor) -> Tensor:
    """Logits (B, slots) with absent classes (mask 0) far below every present one (mask 1)."""
    return logits + (mask - 1.0) * ABSENT


def _shares(weights: Tensor) -> Tensor:
    """Weights (B,) as a row (1, B) that sums to one; all-zero weights stay zero."""
    row = weights.reshape(1, -1)
    return row / row_sums(row).clamp(min=1e-6)


def _divergence(target: Tensor, probabilities: Tensor, shares: Tensor) -> Tensor:
    """Weighted mean of -sum(target * log probabilities), (1,)."""
    log = torch.log(probabilities.clamp(min=SMALLEST))
    return -product(shares, row_sums(target * log)).reshape(1)


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
        divergence = _divergence(target, ours, shares) - _divergence(target, target, shares)
        return divergence * (temperature * temperature)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None, None]:
        target, ours, shares, temperature = ctx.saved_tensors
        return (ours - target) * (shares * (g * temperature)).reshape(-1, 1), None, None, None, None
