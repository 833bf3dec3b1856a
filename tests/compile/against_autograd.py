"""Operators against PyTorch's autograd, in double precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from hypothesis import settings
from small_networks import assert_close
from torch import Tensor
from torch.autograd import gradcheck

EXACT = 1e-10
FEW = settings(deadline=None, max_examples=40)
Function = Callable[..., Tensor]


@pytest.fixture(scope="module")
def double_precision() -> Iterator[None]:
    """So that a wrong tap is no rounding error; the operators' own constants follow the default type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Normally distributed; the same for the same seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_same(ours: Function, theirs: Function, values: Sequence[Tensor], limit: float = EXACT) -> None:
    """Equal values, and equal gradients to every input, of two functions of the same inputs."""
    leaves = [value.clone().requires_grad_() for value in values]
    y, expected = ours(*leaves), theirs(*leaves)
    assert_close(y, expected, "forward", limit)
    g = drawn(*y.shape, seed=9)
    gradients = torch.autograd.grad(y, leaves, g)
    for index, (mine, own) in enumerate(zip(gradients, torch.autograd.grad(expected, leaves, g), strict=True)):
        assert_close(mine, own, f"gradient to input {index}", limit)


def assert_numerical(function: Function, *shapes: Sequence[int]) -> None:
    """Gradients that agree with finite differences."""
    leaves = [drawn(*shape, seed=index).requires_grad_() for index, shape in enumerate(shapes)]
    assert gradcheck(function, leaves)
