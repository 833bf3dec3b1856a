"""Every operator's backward against finite differences, at shapes that hypothesis chooses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from against_autograd import Function, assert_numerical, double_precision, drawn
from hypothesis import given, settings
from hypothesis import strategies as st
from operator_cases import Shape, pooling
from torch import Tensor

from pocketstep.compile import losses
from pocketstep.compile import operators as op

__all__ = ["double_precision"]
pytestmark = pytest.mark.usefixtures("double_precision")
SOME = settings(deadline=None, max_examples=8)
NOT_EXACT = {"FilteredCentre"}
"""Operators whose backward is not meant to be the gradient; ``test_convolutions`` has their formula."""

Draw = st.DrawFn
Case = tuple[Function, Sequence[Shape]]
Number = st.integers(1, 3)


def a_map(draw: Draw, least: int = 1, even_channels: bool = False) -> Shape:
    sides, channels = st.integers(least, least + 3), draw(Number) * (2 if even_channels else 1)
    return draw(st.integers(1, 2)), draw(sides), draw(sides), channels


def pair(draw: Draw, low: int, high: int) -> op.Pair:
    return draw(st.integers(low, high)), draw(st.integers(low, high))


def of_map(function: Function) -> Callable[[Draw], Case]:
    return lambda draw: (function, [a_map(draw)])


def of_two(function: Function) -> Callable[[Draw], Case]:
    """A map, and one that is broadcast along some of its axes; in either order."""

    def case(draw: Draw) -> Case:
        shape = a_map(draw)
        other = tuple(1 if draw(st.booleans()) else size for size in shape)
        return function, [shape, other] if draw(st.booleans()) else [other, shape]

    return case


def _constant_convolution(draw: Draw) -> Case:
    x, kernel, stride = a_map(draw, 3), pair(draw, 1, 3), pair(draw, 1, 2)
    padding, dilation, groups = pair(draw, 0, 1), (1, 1), draw(st.sampled_from([1, x[3]]))
    weights = drawn(groups * draw(Number), x[3] // groups, *kernel, seed=5)
    fixed = op.Convolution(weights, None, stride, padding, dilation, groups, draw(st.booleans()))
    return lambda x: op.ConstantConvolution.apply(x, fixed), [x]


def _decoupled(draw: Draw) -> Case:
    x, stride, outputs = a_map(draw, 2), draw(st.integers(1, 2)), draw(Number)
    kernel = drawn(outputs, x[3], 3, 3, seed=5)
    kernel[:, :, 1, 1] = 0
    ring = op.Convolution(kernel, None, (stride, stride), (1, 1), (1, 1), 1, draw(st.booleans()))

    def function(x: Tensor, weight: Tensor) -> Tensor:
        tap = op.Subsample.apply(x, (stride, stride)).detach()
        result: Tensor = op.Decoupled.apply(x, tap, weight, ring)
        return result

    return function, [x, (x[3], outputs)]


def _columns(draw: Draw) -> Case:
    kernel, stride, padding, dilation = pair(draw, 1, 2), pair(draw, 1, 2), pair(draw, 0, 1), pair(draw, 1, 2)
    return lambda x: op.Columns.apply(x, kernel, stride, padding, dilation), [a_map(draw, 3)]


def _pooling(draw: Draw, function: Callable[[Tensor, op.Windows], Tensor]) -> Case:
    x, kernel, stride = a_map(draw, 3), pair(draw, 2, 3), pair(draw, 1, 3)
    windows = pooling(kernel, stride, pair(draw, 0, 1), (1, 1), (x[1], x[2]), ceil=draw(st.booleans()))
    return lambda x: function(x, windows), [x]


def _grouped_product(draw: Draw) -> Case:
    groups, taps, inputs, outputs = draw(Number), draw(Number), draw(Number), draw(Number)
    columns = (*a_map(draw)[:3], taps * groups * inputs)
    return lambda x, w: op.GroupedProduct.apply(x, w, taps), [columns, (groups, taps * inputs, outputs)]


def _depthwise_taps(draw: Draw) -> Case:
    x, taps = a_map(draw), draw(Number)
    return op.DepthwiseTaps.apply, [(*x[:3], taps * x[3]), (taps, x[3])]


def _matrix(draw: Draw) -> Case:
    rows, inputs, outputs = draw(Number), draw(Number), draw(Number)
    return op.Matrix.apply, [(rows, inputs), (outputs, inputs)]


def _centre_product(draw: Draw) -> Case:
    """Also weights that are large beside what they are multiplied with."""
    x, outputs = a_map(draw), draw(st.sampled_from([1, 3, 24]))
    inputs = 24 if outputs == 24 else x[3]
    return op.CentreProduct.apply, [(1, 1, *x[2:3], inputs), (inputs, outputs)]


def _concatenate(draw: Draw) -> Case:
    shape, axis, count = a_map(draw), draw(st.integers(0, 3)), draw(st.integers(2, 6))
    shapes = [(*shape[:axis], draw(Number), *shape[axis + 1 :]) for _ in range(count)]
    return lambda *x: op.Concatenate.apply(axis, *x), shapes


def _split(draw: Draw) -> Case:
    sizes = draw(st.lists(Number, min_size=2, max_size=3))
    shape = (*a_map(draw)[:3], sum(sizes))
    return lambda x: op.Concatenate.apply(3, *reversed(op.Split.apply(x, 3, sizes))), [shape]


def _slice(draw: Draw) -> Case:
    shape, step = a_map(draw, 3), draw(st.integers(1, 2))
    return lambda x: op.Slice.apply(x, 1, 1, shape[1], step), [shape]


def _pad(draw: Draw) -> Case:
    axis, before, behind = draw(st.integers(1, 2)), draw(st.integers(-1, 2)), draw(st.integers(-1, 2))
    return lambda x: op.Pad.apply(x, axis, before, behind, 0.5), [a_map(draw, 3)]


def _window(draw: Draw) -> Case:
    offset, size = pair(draw, -1, 1), pair(draw, 2, 5)
    return lambda x: op.Window.apply(x, offset, size), [a_map(draw, 3)]


def _resample(draw: Draw) -> Case:
    x, new = a_map(draw), pair(draw, 1, 4)
    down, right = drawn(new[0], x[1], seed=5), drawn(new[1], x[2], seed=6)
    return lambda x: op.Resample.apply(x, down, right), [x]


def _sum(draw: Draw) -> Case:
    axes = draw(st.lists(st.integers(0, 3), min_size=1, max_size=3, unique=True))
    return lambda x: op.Sum.apply(x, sorted(axes), 0.5), [a_map(draw)]


def _repeat(draw: Draw) -> Case:
    shape = a_map(draw)
    return lambda x: op.Repeat.apply(x, shape), [tuple(1 if draw(st.booleans()) else size for size in shape)]


def _largest(draw: Draw) -> Case:
    (first, last), shared = draw(st.sampled_from([(1, 2), (3, 3), (2, 3)])), draw(st.booleans())
    return lambda x: op.Largest.apply(x, first, last, shared), [a_map(draw)]


def _batch_product(draw: Draw) -> Case:
    batch, rows, inner, columns = (draw(Number) for _ in range(4))
    return op.BatchProduct.apply, [(batch, rows, inner), (batch, inner, columns)]


def _layer_norm(draw: Draw) -> Case:
    return lambda x: op.LayerNorm.apply(x, 1e-3), [(draw(Number), draw(st.integers(2, 5)))]


def _group_norm(draw: Draw) -> Case:
    groups, per_group = draw(Number), draw(Number)
    shape = (draw(st.integers(1, 2)), draw(st.integers(2, 5)), groups * per_group)
    return lambda x: op.GroupNorm.apply(x, groups, 1e-3), [shape]


def _power(draw: Draw) -> Case:
    exponent = draw(st.sampled_from([-2.0, -0.5, 0.3, 0.5, 1.5, 2.0, 3.0]))
    return lambda x: op.Power.apply(torch.sigmoid(x) + 0.5, exponent), [a_map(draw)]


def _with_channels(function: Function) -> Callable[[Draw], Case]:
    def case(draw: Draw) -> Case:
        shape = a_map(draw)
        return function, [shape, shape[3:]]

    return case


def _pair_mean(draw: Draw) -> Case:
    return op.PairMean.apply, [(2 * draw(st.integers(1, 4)), draw(st.integers(1, 5)))]


def _subsample(draw: Draw) -> Case:
    stride = pair(draw, 1, 3)
    return lambda x: op.Subsample.apply(x, stride), [a_map(draw)]


def _elu(draw: Draw) -> Case:
    alpha, scale, steepness = (draw(st.sampled_from([0.5, 1.0, 1.7])) for _ in range(3))
    return lambda x: op.Elu.apply(x, alpha, scale, steepness), [a_map(draw)]


def _clip(draw: Draw) -> Case:
    low, high = draw(st.sampled_from([(0.0, None), (0.0, 0.7), (-0.3, 0.8), (None, 0.4), (-0.5, None)]))
    return lambda x: op.Clip.apply(x, low, high), [a_map(draw)]


def _gelu(draw: Draw) -> Case:
    approximate = draw(st.sampled_from(["none", "tanh"]))
    return lambda x: op.Gelu.apply(x, approximate), [a_map(draw)]


def _rows_of(draw: Draw) -> tuple[Shape, Tensor, Tensor]:
    """Logits' shape, a mask with at least one class, weights."""
    rows, slots = draw(Number), draw(st.integers(2, 4))
    mask = torch.tensor([1.0] + [float(draw(st.booleans())) for _ in range(slots - 1)])
    return (rows, slots), mask, torch.tensor([draw(st.sampled_from([0.5, 1.0])) for _ in range(rows)])


def _cross_entropy(draw: Draw) -> Case:
    shape, mask, weights = _rows_of(draw)
    labels = torch.eye(shape[1])[torch.zeros(shape[0], dtype=torch.long)]
    return lambda x: losses.CrossEntropy.apply(x, labels, mask, weights), [shape]


def _distillation(draw: Draw) -> Case:
    shape, mask, weights = _rows_of(draw)
    soft, temperature = drawn(*shape, seed=7), torch.tensor([draw(st.floats(0.5, 4.0))])
    return lambda x: losses.Distillation.apply(x, soft, mask, temperature, weights), [shape]


def _logit_distance(draw: Draw) -> Case:
    shape, mask, weights = _rows_of(draw)
    targets = drawn(*shape, seed=7)
    return lambda x: losses.LogitDistance.apply(x, targets, mask, weights), [shape]


def _feature_distance(draw: Draw) -> Case:
    shape, _, weights = _rows_of(draw)
    targets = drawn(shape[0], shape[1] + draw(st.integers(0, 2)), seed=7)
    return lambda x: losses.FeatureDistance.apply(x, targets, weights), [shape]


CASES: dict[str, Callable[[Draw], Case]] = {
    "Absolute": of_map(op.Absolute.apply),
    "Add": of_two(op.Add.apply),
    "AveragePool": lambda draw: _pooling(draw, lambda x, windows: op.AveragePool.apply(x, windows, False, None)),
    "BatchProduct": _batch_product,
    "CentreProduct": _centre_product,
    "CentreScale": _with_channels(op.CentreScale.apply),
    "Clip": _clip,
    "Columns": _columns,
    "Concatenate": _concatenate,
    "ConstantConvolution": _constant_convolution,
    "CrossEntropy": _cross_entropy,
    "Decoupled": _decoupled,
    "DepthwiseTaps": _depthwise_taps,
    "Distillation": _distillation,
    "Divide": of_two(lambda a, b: op.Divide.apply(a, torch.sigmoid(b) + 0.5)),
    "Elu": _elu,
    "Exponential": of_map(op.Exponential.apply),
    "FeatureDistance": _feature_distance,
    "Gelu": _gelu,
    "GroupNorm": _group_norm,
    "GroupedProduct": _grouped_product,
    "HardSigmoid": of_map(lambda x: op.HardSigmoid.apply(x * 3.0)),
    "HardSwish": of_map(lambda x: op.HardSwish.apply(x * 3.0)),
    "Larger": of_two(op.Larger.apply),
    "Largest": _largest,
    "LayerNorm": _layer_norm,
    "LeakyRelu": of_map(lambda x: op.LeakyRelu.apply(x, 0.2)),
    "Logarithm": of_map(lambda x: op.Logarithm.apply(torch.sigmoid(x) + 0.5)),
    "LogitDistance": _logit_distance,
    "Matrix": _matrix,
    "MaxPool": lambda draw: _pooling(draw, op.MaxPool.apply),
    "Mish": of_map(op.Mish.apply),
    "Multiply": of_two(op.Multiply.apply),
    "Pad": _pad,
    "PairMean": _pair_mean,
    "Pool": of_map(op.Pool.apply),
    "Power": _power,
    "Repeat": _repeat,
    "Resample": _resample,
    "Shift": lambda draw: (op.Shift.apply, [(draw(Number), 4), (4,)]),
    "Sigmoid": of_map(op.Sigmoid.apply),
    "Silu": of_map(op.Silu.apply),
    "Slice": _slice,
    "SlopedRelu": _with_channels(op.SlopedRelu.apply),
    "Softmax": of_map(op.Softmax.apply),
    "Softplus": of_map(lambda x: op.Softplus.apply(x, 1.5)),
    "Split": _split,
    "Subsample": _subsample,
    "Subtract": of_two(op.Subtract.apply),
    "Sum": _sum,
    "Tanh": of_map(op.Tanh.apply),
    "Window": _window,
}


@pytest.mark.parametrize("name", CASES)
def test_backward_is_the_slope(name: str) -> None:
    @SOME
    @given(st.data())
    def check(data: st.DataObject) -> None:
        function, shapes = data.draw(st.composite(CASES[name])())
        assert_numerical(function, *shapes)

    check()


def test_no_operator_is_left_out() -> None:
    def functions(module: Any) -> set[str]:
        found = (getattr(module, name) for name in dir(module))
        return {f.__name__ for f in found if isinstance(f, type) and issubclass(f, torch.autograd.Function)}

    assert functions(op) | functions(losses) == set(CASES) | NOT_EXACT
