from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from against_autograd import FEW, assert_numerical, assert_same, double_precision, drawn
from hypothesis import assume, given
from hypothesis import strategies as st
from operator_cases import on_maps, pooling
from torch import Tensor

from pocketstep.compile import operators as op

__all__ = ["double_precision"]
pytestmark = pytest.mark.usefixtures("double_precision")

PAIR = st.tuples(st.integers(1, 4), st.integers(1, 4))


@st.composite
def geometries(choose: st.DrawFn, dilations: int = 1) -> tuple[op.Windows, bool]:
    """Windows that PyTorch takes, and whether in ceil mode: non-square, overlapping, apart, padded, dilated."""
    kernel, stride = choose(PAIR), choose(PAIR)
    dilation = choose(st.tuples(st.integers(1, dilations), st.integers(1, dilations)))
    padding = (choose(st.integers(0, kernel[0] // 2)), choose(st.integers(0, kernel[1] // 2)))
    least = [max(1, d * (k - 1) + 1 - 2 * p) for d, k, p in zip(dilation, kernel, padding, strict=True)]
    size = (choose(st.integers(least[0], least[0] + 6)), choose(st.integers(least[1], least[1] + 6)))
    ceil = choose(st.booleans())
    return pooling(kernel, stride, padding, dilation, size, ceil=ceil), ceil


@FEW
@given(geometries(dilations=2), st.integers(0, 99), st.booleans())
def test_max_pool(geometry: tuple[op.Windows, bool], seed: int, ties: bool) -> None:
    """Ties too: PyTorch gives the gradient to the first of equal ones."""
    windows, ceil = geometry
    x = drawn(2, *windows.size, 3, seed=seed)
    x = x.mul(2).round().relu() if ties else x

    def theirs(x: Tensor) -> Tensor:
        return F.max_pool2d(x, windows.kernel, windows.stride, windows.padding, windows.dilation, ceil)

    assume(theirs(op.to_nchw(x)).isfinite().all())  # a window of nothing but padding
    assert_same(lambda x: op.MaxPool.apply(x, windows), on_maps(theirs), [x])


@FEW
@given(geometries(), st.booleans(), st.sampled_from([None, None, 3]))
def test_average_pool(geometry: tuple[op.Windows, bool], with_padding: bool, divisor: int | None) -> None:
    windows, ceil = geometry

    def theirs(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, windows.kernel, windows.stride, windows.padding, ceil, with_padding, divisor)

    x = drawn(2, *windows.size, 3)
    assert_same(lambda x: op.AveragePool.apply(x, windows, with_padding, divisor), on_maps(theirs), [x])


@pytest.mark.parametrize("ceil", [False, True])
def test_numerical_gradients(ceil: bool) -> None:
    windows = pooling((3, 2), (2, 2), (1, 0), ceil=ceil)
    assert_numerical(lambda x: op.MaxPool.apply(x, windows), (1, 6, 5, 2))
    assert_numerical(lambda x: op.AveragePool.apply(x, windows, False, None), (1, 6, 5, 2))


@FEW
@given(PAIR, st.integers(1, 3), st.booleans(), st.booleans())
def test_largest_pixel(size: tuple[int, int], channels: int, ties: bool, shared: bool) -> None:
    x = drawn(2, *size, channels)
    x = x.round().relu() if ties else x
    if shared:
        assert_same(lambda x: op.Largest.apply(x, 1, 2, True), lambda x: x.amax((1, 2), keepdim=True), [x])
    else:
        assert_same(lambda x: op.Largest.apply(x, 1, 2, False), on_maps(lambda x: F.adaptive_max_pool2d(x, 1)), [x])


@FEW
@given(st.lists(st.integers(1, 4), min_size=2, max_size=4).map(tuple), st.data())
def test_largest_along_any_run(shape: tuple[int, ...], data: st.DataObject) -> None:
    first = data.draw(st.integers(1, len(shape) - 1))
    last = data.draw(st.integers(first, len(shape) - 1))
    dimensions = tuple(range(first, last + 1))
    assert_same(
        lambda x: op.Largest.apply(x, first, last, True), lambda x: x.amax(dimensions, keepdim=True), [drawn(*shape)]
    )
    assert_numerical(lambda x: op.Largest.apply(x, first, last, False), shape)


@FEW
@given(PAIR, PAIR, st.integers(1, 3))
def test_resample_is_two_products(old: tuple[int, int], new: tuple[int, int], channels: int) -> None:
    rows, columns = drawn(new[0], old[0], seed=1), drawn(new[1], old[1], seed=2)
    assert_same(
        lambda x: op.Resample.apply(x, rows, columns),
        lambda x: torch.einsum("ih,jw,bhwc->bijc", rows, columns, x),
        [drawn(2, *old, channels)],
    )
    assert_numerical(lambda x: op.Resample.apply(x, rows, columns), (1, *old, channels))


@FEW
@given(PAIR, st.integers(1, 4), st.integers(1, 3))
def test_global_pool(size: tuple[int, int], channels: int, batch: int) -> None:
    assert_same(op.Pool.apply, lambda x: x.mean((1, 2)), [drawn(batch, *size, channels)])


@FEW
@given(st.integers(1, 4), st.integers(1, 5))
def test_mean_of_pairs(pairs: int, width: int) -> None:
    assert_same(op.PairMean.apply, lambda x: x.unflatten(0, (-1, 2)).mean(1), [drawn(2 * pairs, width)])


@FEW
@given(PAIR, PAIR)
def test_phases_and_interleaved_are_inverse(stride: tuple[int, int], size: tuple[int, int]) -> None:
    x = drawn(2, size[0] * stride[0], size[1] * stride[1], 3)
    parts = op.phases(x, stride)
    assert len(parts) == stride[0] * stride[1]
    for index, part in enumerate(parts):
        row, column = divmod(index, stride[1])
        assert torch.equal(part, x[:, row :: stride[0], column :: stride[1]])
    assert torch.equal(op.interleaved(parts, stride), x)
