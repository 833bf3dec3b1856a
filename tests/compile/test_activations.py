from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from against_autograd import FEW, assert_numerical, assert_same, double_precision, drawn
from hypothesis import given
from hypothesis import strategies as st
from operator_cases import CASES
from small_networks import assert_close
from torch import Tensor

from pocketstep.compile import operators as op

__all__ = ["double_precision"]
pytestmark = pytest.mark.usefixtures("double_precision")

POINTWISE = [
    "relu", "relu6", "hardtanh", "clamp", "leaky relu", "hard sigmoid", "hard swish", "sigmoid",
    "tanh", "silu", "gelu", "gelu tanh", "elu", "selu", "celu", "softplus", "mish", "absolute", "exponential",
    "logarithm", *(name for name in CASES if name.startswith("power")),
]  # fmt: skip
SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=5).map(tuple)


@pytest.mark.parametrize("name", [name for name in POINTWISE if name != "gelu"])
def test_any_shape(name: str) -> None:
    case = CASES[name]

    @FEW
    @given(SHAPES, st.integers(0, 99))
    def check(shape: tuple[int, ...], seed: int) -> None:
        assert_same(case.ours, case.theirs, [drawn(*shape, seed=seed) * 2], case.limit)

    check()


@pytest.mark.parametrize("name", [name for name in POINTWISE if name != "gelu"])
def test_numerical_gradient(name: str) -> None:
    assert_numerical(CASES[name].ours, (2, 3, 2, 2))


@pytest.mark.parametrize(
    ("ours", "theirs", "kinks"),
    [
        (lambda x: op.Clip.apply(x, 0.0, None), F.relu, [0.0, -0.0]),
        (lambda x: op.Clip.apply(x, 0.0, 6.0), F.relu6, [0.0, 6.0]),
        (lambda x: op.Clip.apply(x, -0.5, 0.75), lambda x: F.hardtanh(x, -0.5, 0.75), [-0.5, 0.75]),
        (lambda x: op.Clip.apply(x, -0.5, 0.75), lambda x: x.clamp(-0.5, 0.75), [-0.5, 0.75]),
        (lambda x: op.Clip.apply(x, 0.0, None), lambda x: x.clamp(min=0), [0.0]),
        (lambda x: op.LeakyRelu.apply(x, 0.1), lambda x: F.leaky_relu(x, 0.1), [0.0]),
        (lambda x: op.Elu.apply(x, 0.7, 1.0, 1.0), lambda x: F.elu(x, 0.7), [0.0]),
        (op.Absolute.apply, torch.abs, [0.0]),
        (op.HardSigmoid.apply, F.hardsigmoid, [-3.0, 3.0]),
    ],
    ids=["relu", "relu6", "hardtanh", "clamp", "clamp min", "leaky relu", "elu", "absolute", "hard sigmoid"],
)
def test_at_kinks_as_pytorch(ours: object, theirs: object, kinks: list[float]) -> None:
    tiny = torch.finfo(torch.float64).tiny
    values = torch.tensor([*kinks, *(k + 1e-9 for k in kinks), *(k - 1e-9 for k in kinks), tiny, -tiny])
    assert_same(ours, theirs, [values], 1e-7)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [name for name in POINTWISE if not name.startswith(("exponential", "power"))])
def test_float32_far_from_zero(name: str) -> None:
    """No overflow, and what PyTorch gives, up to what float32 can hold of it."""
    x = torch.tensor([-90.0, -30, -12, -6, -2, 2, 6, 12, 30, 90], dtype=torch.float32)
    assert_same(CASES[name].ours, CASES[name].theirs, [x], 1e-5)


def test_gelu_slope_is_good_to_float32() -> None:
    """It is an approximation, unlike all others, which finite differences in double precision would see.

    Abramowitz and Stegun 7.1.26 says 1.5e-7 of erf, which is half of that of the normal distribution.
    """
    x = torch.linspace(-9, 9, 20001)
    leaf = x.double().requires_grad_()
    (expected,) = torch.autograd.grad(F.gelu(leaf), leaf, torch.ones_like(leaf))
    for dtype, limit in ((torch.float64, 1e-7), (torch.float32, 1e-6)):  # processors' exp differs in the last bits
        leaf = x.to(dtype).requires_grad_()
        (slope,) = torch.autograd.grad(op.Gelu.apply(leaf, "none"), leaf, torch.ones(len(x), dtype=dtype))
        assert (slope.double() - expected).abs().max() < limit


@FEW
@given(SHAPES.filter(lambda shape: len(shape) > 1), st.integers(0, 9))
def test_softmax(shape: tuple[int, ...], seed: int) -> None:
    assert_same(op.Softmax.apply, lambda x: F.softmax(x, len(shape) - 1), [drawn(*shape, seed=seed) * 3], 1e-8)
    assert_numerical(op.Softmax.apply, (2, 3))


@FEW
@given(st.integers(1, 4), st.booleans())
def test_prelu(channels: int, one: bool) -> None:
    x, slopes = drawn(2, 3, channels), drawn(1 if one else channels, seed=1)

    def theirs(x: Tensor, slopes: Tensor) -> Tensor:
        return F.prelu(x.transpose(1, 2), slopes).transpose(1, 2)

    assert_same(op.SlopedRelu.apply, theirs, [x, slopes])
    assert_numerical(op.SlopedRelu.apply, (2, 3, channels), (channels,))


def test_masks_are_exact() -> None:
    """Also next to zero, where one float comes after the other."""
    small = [0.0, -0.0, 1e-45, -1e-45, 1e-38, -1e-38, 0.3, -0.3, 1.0, 5.0, 3e38, -3e38]
    x = torch.tensor(small, dtype=torch.float32)
    assert_close(op.positive(x), (x > 0).float(), "mask", 0)
