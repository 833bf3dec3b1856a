from __future__ import annotations

from itertools import pairwise
from math import prod

import pytest
import torch
from against_autograd import FEW
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pocketstep.compile.layouts import MAP, Laid, standard

SHAPE = st.lists(st.sampled_from([1, 2, 3, 4]), min_size=2, max_size=5)


def numbered(shape: list[int]) -> Tensor:
    return torch.arange(float(prod(shape))).reshape(shape)


def plain(value: Laid) -> Tensor:
    return value.to(tuple(range(value.rank)))


@st.composite
def laid(choose: st.DrawFn) -> tuple[Laid, Tensor]:
    """A value in any order, and the tensor that it stands for."""
    tensor = numbered(choose(SHAPE))
    order = tuple(choose(st.permutations(range(tensor.dim()))))
    return Laid(tensor.permute(order).contiguous(), order), tensor


@st.composite
def regrouped(choose: st.DrawFn, shape: list[int]) -> list[int]:
    """Another shape of as many elements: any cuts of the sequence of prime factors, with ones between."""
    factors = [factor for size in shape for factor in {4: [2, 2], 1: []}.get(size, [size])]
    places = sorted(choose(st.lists(st.integers(0, len(factors)), max_size=4)))
    return [prod(factors[a:b]) for a, b in pairwise([0, *places, len(factors)])]


@FEW
@given(laid())
def test_shape_axis_and_any_order(both: tuple[Laid, Tensor]) -> None:
    value, tensor = both
    assert value.shape == tensor.shape
    assert torch.equal(plain(value), tensor)
    assert [value.tensor.shape[value.axis(d)] for d in range(value.rank)] == list(tensor.shape)
    assert value.axis(-1) == value.axis(value.rank - 1)


@FEW
@given(st.data())
def test_permutations_and_views_of_any_order(data: st.DataObject) -> None:
    """A chain of both; each step is what torch makes of it."""
    value, tensor = data.draw(laid())
    for _ in range(3):
        if data.draw(st.booleans()):
            dimensions = data.draw(st.permutations(range(tensor.dim())))
            before = value.tensor
            value, tensor = value.permuted(dimensions), tensor.permute(dimensions)
            assert value.tensor is before  # free
        else:
            shape = data.draw(regrouped(list(tensor.shape)))
            value, tensor = value.viewed(shape), tensor.reshape(shape)
        assert value.shape == tensor.shape
        assert torch.equal(plain(value), tensor)


@FEW
@given(laid(), st.data())
def test_dimensions_of_one(both: tuple[Laid, Tensor], data: st.DataObject) -> None:
    value, tensor = both
    ones = [dimension for dimension, size in enumerate(tensor.shape) if size == 1]
    gone = data.draw(st.lists(st.sampled_from(ones), unique=True)) if ones else []
    if len(gone) < tensor.dim():
        assert torch.equal(plain(value.without(gone)), tensor.squeeze(gone) if gone else tensor)


@FEW
@given(laid(), st.integers(0, 2), st.data())
def test_aligned_as_broadcasting_has_it(both: tuple[Laid, Tensor], added: int, data: st.DataObject) -> None:
    value, tensor = both
    order = tuple(data.draw(st.permutations(range(tensor.dim() + added))))
    expected = tensor.reshape([1] * added + list(tensor.shape)).permute(order)
    assert torch.equal(value.aligned(order), expected)


def test_what_is_free() -> None:
    """No operator runs where a map's channels are already last, as in ConvNeXt, or where one pixel is flattened."""
    x = Laid.standard(numbered([2, 3, 4, 5]))
    assert x.order == MAP == standard(4)
    last = x.permuted([0, 2, 3, 1])
    assert plain(last) is x.tensor
    assert last.permuted([0, 3, 1, 2]).to(MAP) is x.tensor
    rows = last.viewed([2 * 3 * 4, 5])
    assert rows.tensor._base is x.tensor or rows.tensor.data_ptr() == x.tensor.data_ptr()
    pixel = Laid.standard(numbered([2, 1, 1, 5])).viewed([2, 5])
    assert pixel.tensor.shape == (2, 5)
    assert x.viewed([2, 5, 12]).order == (0, 2, 1)  # pixels flattened, channels still last


@pytest.mark.parametrize("groups", [2, 3])
def test_channel_shuffle_is_one_transpose(groups: int) -> None:
    x = Laid.standard(numbered([2, 3, 4, 6]))
    split = x.viewed([2, groups, 6 // groups, 3, 4])
    assert split.order == (0, 3, 4, 1, 2)
    shuffled = split.permuted([0, 2, 1, 3, 4]).viewed([2, 6, 3, 4])
    assert shuffled.order == MAP
    expected = x.tensor.reshape(2, 3, 4, groups, -1).transpose(3, 4).reshape(2, 3, 4, 6)
    assert torch.equal(shuffled.tensor, expected)
