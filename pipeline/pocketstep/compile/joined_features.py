"""What a closed-form head sees of a sample: features joined with the pooled latent, or random features of them."""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from pocketstep.compile.operators import frozen, product, row_sums

WIDEST = 1024
"""Of a part of the joined features: wider ones are sketched, or their second moment would outgrow the network."""

ROUNDS = 2
"""Of signs and transform for each block of random features."""


def unit(x: Tensor) -> Tensor:
    """Rows (B, D) scaled to length sqrt(D), so that joined parts weigh by their size."""
    return x * torch.rsqrt(row_sums(x * x) * (1.0 / x.shape[1]) + 1e-12)


def sketched_size(width: int) -> int:
    """Columns of :func:`sketched` for a part of ``width`` columns."""
    return -(-width // -(-width // WIDEST))


def sketched(x: Tensor) -> Tensor:
    """Rows (B, D) with neighbours added up under random signs, a count sketch: (B, sketched_size(D)).

    Products of two rows keep their expectation (Charikar et al. 2002), so that a covariance of a layer of 4,096
    neurons (VGG, AlexNet) takes 4 MB and not 64. Up to 1,024 columns nothing is changed.
    """
    width = x.shape[1]
    group = -(-width // WIDEST)
    if group == 1:
        return x
    size = sketched_size(width)
    signs = frozen(lambda: torch.randint(0, 2, (width,), generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0)
    padded = F.pad(x * signs, (0, size * group - width))
    return row_sums(padded.reshape(x.shape[0] * size, group)).reshape(x.shape[0], size)


def joined(pooled: Tensor | None, features: Tensor, expansion: int, origin: Tensor) -> Tensor:
    """Penultimate features (B, D) joined with pooled latents (B, P), or alone: (B, D' + P), or (B, expansion).

    D' is :func:`sketched_size`. With an ``expansion`` the head sees that many random features of them
    (:func:`expanded`). ``origin``, the cloud's mean, is subtracted: a discriminant does not depend on it, but without
    it the covariance is a small difference of large sums, which costs a digit of fp32.
    """
    known = unit(sketched(features))
    joined = known if pooled is None else torch.cat([known, unit(pooled)], 1)
    return (expanded(joined, expansion) if expansion else joined) - origin


def expanded(x: Tensor, size: int) -> Tensor:
    """Rows (B, D) as random features max(0, x W), (B, size): the expansion of ACIL (Zhuang et al. 2022, section 3.2).

    W is made of signs and Walsh-Hadamard transforms (Fastfood, Le et al. 2013): near independent normal columns from
    a few signs and two small matrices, where W itself would be larger than many networks.
    """
    width = transformed_width(x.shape[1])
    x, parts = F.pad(x, (0, width - x.shape[1])), list[Tensor]()
    for block in range(-(-size // width)):
        part = x
        for turn in range(ROUNDS):
            part = hadamard(part * frozen(partial(random_signs, block, turn, width)))
        parts.append(part)
    return torch.relu(torch.cat(parts, 1)[:, :size] if len(parts) > 1 else parts[0][:, :size])


def transformed_width(width: int) -> int:
    """The power of two that a transform of so many columns takes."""
    return 1 << (width - 1).bit_length()


def random_signs(block: int, turn: int, width: int) -> Tensor:
    """-1 and 1, (width,): the same wherever a program is made."""
    generator = torch.Generator().manual_seed(ROUNDS * block + turn)
    return torch.randint(0, 2, (width,), generator=generator) * 2.0 - 1.0


def hadamard(x: Tensor) -> Tensor:
    """Rows (B, 2^k) through an orthonormal Walsh-Hadamard transform, as products with two matrices of its factors.

    Columns come out in another order, which random features do not mind.
    """
    batch, width = x.shape
    right = 1 << (width.bit_length() // 2)
    left = width // right
    x = product(x.reshape(batch * left, right), frozen(lambda: walsh(right)))
    x = x.reshape(batch, left, right).transpose(1, 2).reshape(batch * right, left)
    return product(x, frozen(lambda: walsh(left))).reshape(batch, width)


def walsh(size: int) -> Tensor:
    """Sylvester's matrix (size, size), orthonormal."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), matrix)
    return matrix * (1.0 / math.sqrt(size))
