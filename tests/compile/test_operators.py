from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from against_autograd import FEW, double_precision
from hypothesis import given
from hypothesis import strategies as st
from small_networks import assert_close
from torch import Tensor
from torch.autograd import gradcheck
from torch.fx.experimental.proxy_tensor import make_fx

from pocketstep.compile import losses
from pocketstep.compile import operators as op
from pocketstep.compile.operators.trained import through_turned

EXACT = 1e-10
SIDE = st.integers(1, 9)
PAIR = st.tuples(SIDE, SIDE)
__all__ = ["double_precision"]
pytestmark = pytest.mark.usefixtures("double_precision")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def assert_same(ours: Tensor, expected: Tensor, leaves: dict[str, Tensor]) -> None:
    """Values, then the gradient to every leaf, of two results of the same leaves."""
    assert_close(ours, expected, "forward", EXACT)
    if ours.numel() == 0:
        return
    g = drawn(*ours.shape, seed=9).detach()
    ours_g = torch.autograd.grad(ours, list(leaves.values()), g)
    expected_g = torch.autograd.grad(expected, list(leaves.values()), g)
    for name, mine, theirs in zip(leaves, ours_g, expected_g, strict=True):
        assert_close(mine, theirs, f"gradient to {name}", EXACT)


@dataclass(frozen=True)
class Geometry:
    """A convolution and the input that it gets."""

    size: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    inputs: int
    outputs: int


def geometries(dilations: int = 3) -> st.SearchStrategy[Geometry]:
    """Any that has at least one output pixel: non-square, depthwise and grouped ones among them."""

    @st.composite
    def draw(choose: st.DrawFn) -> Geometry:
        pair = lambda low, high: choose(st.tuples(st.integers(low, high), st.integers(low, high)))  # noqa: E731
        kernel, stride, dilation = pair(1, 5), pair(1, 3), pair(1, dilations)
        padding = choose(st.tuples(*(st.integers(0, 1 + d * (k - 1)) for d, k in zip(dilation, kernel, strict=True))))
        least = [max(1, d * (k - 1) + 1 - 2 * p) for d, k, p in zip(dilation, kernel, padding, strict=True)]
        size = choose(st.tuples(*(st.integers(low, low + 6) for low in least)))
        groups = choose(st.integers(1, 3))
        inputs, outputs = groups * choose(st.integers(1, 3)), groups * choose(st.integers(1, 3))
        if choose(st.booleans()):  # depthwise
            groups = outputs = inputs
        return Geometry(size, kernel, stride, padding, dilation, groups, inputs, outputs)

    return draw()


@FEW
@given(geometries(), st.booleans())
def test_constant_convolution(geometry: Geometry, biased: bool) -> None:
    kernel = drawn(geometry.outputs, geometry.inputs // geometry.groups, *geometry.kernel).detach()
    bias = drawn(geometry.outputs, seed=1).detach() if biased else None
    rest = geometry.stride, geometry.padding, geometry.dilation, geometry.groups
    x = drawn(2, *geometry.size, geometry.inputs, seed=2)
    ours = op.ConstantConvolution.apply(x, op.Convolution(kernel, bias, *rest))
    assert_same(ours, op.to_nhwc(F.conv2d(op.to_nchw(x), kernel, bias, *rest)), {"x": x})


@FEW
@given(geometries(dilations=1))
def test_columns_and_product_are_a_trained_convolution(geometry: Geometry) -> None:
    x = drawn(2, *geometry.size, geometry.inputs)
    kernel = drawn(geometry.outputs, geometry.inputs, *geometry.kernel, seed=1)
    taps = kernel.permute(2, 3, 1, 0).reshape(-1, geometry.outputs)
    columns = op.Columns.apply(x, geometry.kernel, geometry.stride, geometry.padding, (1, 1))
    expected = op.to_nhwc(F.conv2d(op.to_nchw(x), kernel, None, geometry.stride, geometry.padding))
    assert_same(op.CentreProduct.apply(columns, taps), expected, {"x": x, "kernel": kernel})


@FEW
@given(PAIR, st.integers(1, 4), st.integers(1, 4))
def test_centre_product_is_a_1x1_convolution(size: tuple[int, int], inputs: int, outputs: int) -> None:
    x, weight = drawn(2, *size, inputs), drawn(inputs, outputs, seed=1)
    expected = op.to_nhwc(F.conv2d(op.to_nchw(x), weight.t()[:, :, None, None]))
    assert_same(op.CentreProduct.apply(x, weight), expected, {"x": x, "weight": weight})


@pytest.mark.parametrize(("rows", "turned"), [(1, True), (8, False)])
def test_a_large_weight_goes_first(rows: int, turned: bool) -> None:
    """And the result is turned then; the same product either way."""
    g, weight = drawn(rows, 16).detach(), drawn(24, 16, seed=1).detach()
    result = through_turned(g, weight)
    assert_close(result, g @ weight.t(), "product", EXACT)
    traced = make_fx(through_turned)(g, weight).graph
    assert (torch.ops.aten.t.default in {node.target for node in traced.nodes}) == turned


@FEW
@given(PAIR, st.integers(1, 5))
def test_centre_scale_is_a_depthwise_1x1_convolution(size: tuple[int, int], channels: int) -> None:
    x, weight = drawn(2, *size, channels), drawn(channels, seed=1)
    expected = op.to_nhwc(F.conv2d(op.to_nchw(x), weight[:, None, None, None], groups=channels))
    assert_same(op.CentreScale.apply(x, weight), expected, {"x": x, "weight": weight})


@FEW
@given(PAIR, st.tuples(st.integers(1, 4), st.integers(1, 4)))
def test_subsample(size: tuple[int, int], stride: tuple[int, int]) -> None:
    x = drawn(2, *size, 3)
    assert_same(op.Subsample.apply(x, stride), x[:, :: stride[0], :: stride[1]], {"x": x})


@pytest.mark.parametrize("top", [None, 6.0, 0.5])
def test_clip(top: float | None) -> None:
    x = (drawn(3, 7, 5, 4).detach() * 5).requires_grad_()
    expected = F.relu(x) if top is None else F.hardtanh(x, 0, top)
    assert_same(op.Clip.apply(x, 0.0, top), expected, {"x": x})
    assert ((x > 0) & (x < (top or 1e9))).any()
    assert (x < 0).any()


@FEW
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6))
def test_matrix_and_shift_are_a_linear_layer(batch: int, inputs: int, outputs: int) -> None:
    x, weight, bias = drawn(batch, inputs), drawn(outputs, inputs, seed=1), drawn(outputs, seed=2)
    ours = op.Shift.apply(op.Matrix.apply(x, weight), bias)
    assert_same(ours, F.linear(x, weight, bias), {"x": x, "weight": weight, "bias": bias})


@FEW
@given(PAIR, st.integers(1, 5), st.integers(1, 3))
def test_pool(size: tuple[int, int], channels: int, batch: int) -> None:
    x = drawn(batch, *size, channels)
    assert_same(op.Pool.apply(x), x.mean((1, 2)), {"x": x})


@pytest.mark.parametrize(("size", "cells"), [((4, 4), (4, 4)), ((6, 9), (3, 3)), ((5, 7), (1, 1)), ((8, 4), (2, 1))])
def test_grid_pool(size: tuple[int, int], cells: tuple[int, int]) -> None:
    x = drawn(2, *size, 3)
    expected = op.to_nhwc(F.adaptive_avg_pool2d(op.to_nchw(x), cells)).reshape(2, -1)
    assert_same(op.grid_pool(x, cells), expected, {"x": x})


CHECKED: dict[str, tuple[Callable[..., Any], list[tuple[int, ...]]]] = {
    "Matrix": (op.Matrix.apply, [(3, 4), (2, 4)]),
    "Shift": (op.Shift.apply, [(3, 4), (4,)]),
    "Pool": (op.Pool.apply, [(2, 3, 2, 2)]),
    "Subsample": (lambda x: op.Subsample.apply(x, (2, 3)), [(1, 5, 4, 2)]),
    "Clip": (lambda x: op.Clip.apply(x, 0.0, 1.0), [(2, 3, 2, 2)]),
    "CentreProduct": (op.CentreProduct.apply, [(1, 3, 2, 2), (2, 3)]),
    "CentreScale": (op.CentreScale.apply, [(1, 3, 2, 2), (2,)]),
    "Columns": (lambda x: op.Columns.apply(x, (3, 2), (2, 1), (1, 0), (1, 1)), [(1, 5, 4, 2)]),
}


@pytest.mark.parametrize("name", CHECKED)
def test_numerical_gradient(name: str) -> None:
    function, shapes = CHECKED[name]
    assert gradcheck(function, [drawn(*shape, seed=i) for i, shape in enumerate(shapes)])


def test_numerical_gradient_of_the_convolution() -> None:
    kernel = drawn(4, 1, 3, 2).detach()
    fixed = op.Convolution(kernel, None, (2, 1), (1, 2), (1, 2), 4)
    assert gradcheck(lambda x: op.ConstantConvolution.apply(x, fixed), [drawn(1, 5, 4, 4)])


# Losses


@st.composite
def batches(choose: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, labels, mask, weights: absent classes, padding and even only padding among them."""
    size, slots = choose(st.integers(1, 5)), choose(st.integers(2, 6))
    present = choose(st.lists(st.booleans(), min_size=slots, max_size=slots).filter(any))
    mask = torch.tensor(present, dtype=torch.float64)
    weights = torch.tensor(choose(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=size, max_size=size)))
    choices = st.sampled_from([i for i, there in enumerate(present) if there])
    labels = torch.tensor([choose(choices) for _ in range(size)])
    return drawn(size, slots, seed=choose(st.integers(0, 99))), labels, mask, weights


def weighted_mean(each: Tensor, weights: Tensor) -> Tensor:
    return (each * weights).sum().reshape(1) / weights.sum().clamp(min=1e-6)


@FEW
@given(batches())
def test_cross_entropy(batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    logits, labels, mask, weights = batch
    one_hot = F.one_hot(labels, len(mask)).double()
    ours = losses.CrossEntropy.apply(logits, one_hot, mask, weights)
    present = logits.masked_fill(mask == 0, float("-inf"))
    assert_same(ours, weighted_mean(F.cross_entropy(present, labels, reduction="none"), weights), {"logits": logits})


@FEW
@given(batches(), st.floats(0.5, 8))
def test_distillation(batch: tuple[Tensor, Tensor, Tensor, Tensor], temperature: float) -> None:
    logits, _, mask, weights = batch
    soft, old = drawn(*logits.shape, seed=5).detach() * 3, mask > 0
    ours = losses.Distillation.apply(logits, soft, mask, torch.tensor([temperature]), weights)
    each = F.kl_div(
        (logits[:, old] / temperature).log_softmax(1), (soft[:, old] / temperature).softmax(1), reduction="none"
    ).sum(1)
    expected = weighted_mean(each, weights) * temperature**2
    torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-12)
    ours_g, expected_g = (torch.autograd.grad(value.sum(), logits)[0] for value in (ours, expected))
    torch.testing.assert_close(ours_g, expected_g, rtol=1e-8, atol=1e-12)


def test_absent_classes_and_padding_get_no_gradient() -> None:
    logits, mask, weights = drawn(3, 4), torch.tensor([1.0, 1, 0, 1]), torch.tensor([1.0, 0, 1])
    labels = F.one_hot(torch.tensor([0, 1, 3]), 4).double()
    loss = losses.CrossEntropy.apply(logits, labels, mask, weights)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert (gradient[:, 2] == 0).all()
    assert (gradient[1] == 0).all()
    assert (gradient[0, [0, 1, 3]] != 0).all()
    nothing = losses.CrossEntropy.apply(logits, labels, mask, torch.zeros(3))
    assert nothing.item() == 0
    assert (torch.autograd.grad(nothing, logits)[0] == 0).all()


def test_losses_numerical_gradient() -> None:
    mask, weights, soft = torch.tensor([1.0, 0, 1]), torch.tensor([1.0, 0.5]), drawn(2, 3, seed=3).detach()
    labels = F.one_hot(torch.tensor([0, 2]), 3).double()
    assert gradcheck(lambda x: losses.CrossEntropy.apply(x, labels, mask, weights), [drawn(2, 3)])
    temperature = torch.tensor([2.0])
    assert gradcheck(lambda x: losses.Distillation.apply(x, soft, mask, temperature, weights), [drawn(2, 3)])
