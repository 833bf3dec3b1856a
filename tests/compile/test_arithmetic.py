from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from against_autograd import FEW, assert_numerical, assert_same, double_precision, drawn
from hypothesis import given
from hypothesis import strategies as st
from operator_cases import CASES
from torch import Tensor

from pocketstep.compile import operators as op
from pocketstep.compile.operators.layout import fitted, framed, joined

__all__ = ["double_precision"]
pytestmark = pytest.mark.usefixtures("double_precision")

Shape = tuple[int, ...]
SIDE = st.integers(1, 4)


@st.composite
def broadcastable(choose: st.DrawFn) -> tuple[Shape, Shape]:
    """Two shapes that broadcast: gates, channels, single numbers, lower ranks among them."""
    full = choose(st.lists(SIDE, min_size=1, max_size=5))
    first, second = ([size if choose(st.booleans()) else 1 for size in full] for _ in range(2))
    cut = choose(st.integers(0, len(full) - 1))
    return tuple(first), tuple(second[cut:])


TWO: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "add": (op.Add.apply, torch.add),
    "subtract": (op.Subtract.apply, torch.sub),
    "multiply": (op.Multiply.apply, torch.mul),
    "divide": (lambda a, b: op.Divide.apply(a, op.Exponential.apply(b)), lambda a, b: a / b.exp()),
    "larger": (op.Larger.apply, torch.maximum),
}


@pytest.mark.parametrize("name", TWO)
@pytest.mark.parametrize("turned", [False, True])
def test_any_shapes_that_broadcast(name: str, turned: bool) -> None:
    ours, theirs = TWO[name]

    @FEW
    @given(broadcastable())
    def check(shapes: tuple[Shape, Shape]) -> None:
        first, second = shapes[::-1] if turned else shapes
        assert_same(ours, theirs, [drawn(*first, seed=1), drawn(*second, seed=2)])

    check()
    assert_numerical(ours, (2, 3, 2), (3, 1))


def test_no_gradient_for_constants() -> None:
    """So that the sums over what they were broadcast along are never traced."""
    x = drawn(2, 3).requires_grad_()
    for ours, _ in TWO.values():
        (gradient,) = torch.autograd.grad(ours(x, drawn(3)), x, torch.ones(2, 3))
        assert gradient.shape == x.shape


def test_ties_of_the_larger_share() -> None:
    x, y = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 3.0, 2.0])
    assert_same(op.Larger.apply, torch.maximum, [x, y])


@FEW
@given(st.lists(SIDE, min_size=1, max_size=5).map(tuple), st.data())
def test_sums_and_repetitions(shape: Shape, data: st.DataObject) -> None:
    axes = data.draw(st.lists(st.integers(0, len(shape) - 1), unique=True, min_size=1))
    ours = lambda x: op.Sum.apply(x, axes, 0.5)  # noqa: E731
    assert_same(ours, lambda x: x.sum(axes, keepdim=True) * 0.5, [drawn(*shape)])
    assert_numerical(ours, shape)
    thin = tuple(1 if axis in axes else size for axis, size in enumerate(shape))
    assert_same(lambda x: op.Repeat.apply(x, shape), lambda x: x.expand(shape), [drawn(*thin)])


@FEW
@given(st.integers(1, 9), st.integers(1, 40))
def test_sums_of_many(rows: int, count: int) -> None:
    """As products, as slices, whatever the number."""
    for shape, axis in (((rows, count), 1), ((count, rows), 0), ((rows, count, 2), 1)):
        x = drawn(*shape)
        assert_same(lambda x, a=axis: op.Sum.apply(x, [a], 1.0), lambda x, a=axis: x.sum(a, keepdim=True), [x])


@FEW
@given(st.sampled_from([-3.0, -1.0, -0.5, 0.5, 1.0, 1.5, 2.0, 3.0, 4.5, 0.75, 1 / 3]), st.integers(0, 9))
def test_powers(exponent: float, seed: int) -> None:
    x = drawn(2, 3, seed=seed).abs() + 0.1
    assert_same(lambda x: op.Power.apply(x, exponent), lambda x: x.pow(exponent), [x])


def test_squares_of_negative_numbers() -> None:
    assert_same(lambda x: op.Power.apply(x, 2.0), lambda x: x.pow(2), [drawn(3, 4)])
    assert_numerical(lambda x: op.Power.apply(x, 3.0), (3, 4))


@FEW
@given(st.integers(1, 5), st.integers(2, 6))
def test_layer_norm(rows: int, size: int) -> None:
    ours = lambda x: op.LayerNorm.apply(x, 1e-3)  # noqa: E731
    assert_same(ours, lambda x: F.layer_norm(x, (size,), eps=1e-3), [drawn(rows, size)], 1e-8)
    assert_numerical(ours, (rows, size))


@FEW
@given(st.integers(1, 3), st.integers(1, 3), st.integers(2, 5))
def test_group_norm(groups: int, per_group: int, pixels: int) -> None:
    ours = lambda x: op.GroupNorm.apply(x, groups, 1e-3)  # noqa: E731
    theirs = lambda x: F.group_norm(x.transpose(1, 2), groups, eps=1e-3).transpose(1, 2)  # noqa: E731
    assert_same(ours, theirs, [drawn(2, pixels, groups * per_group)], 1e-8)
    assert_numerical(ours, (2, pixels, groups * per_group))


@FEW
@given(SIDE, SIDE, SIDE, SIDE)
def test_batch_product(batch: int, rows: int, inner: int, columns: int) -> None:
    assert_same(op.BatchProduct.apply, torch.bmm, [drawn(batch, rows, inner), drawn(batch, inner, columns, seed=1)])
    assert_numerical(op.BatchProduct.apply, (2, 3, 2), (2, 2, 3))


@FEW
@given(st.lists(SIDE, min_size=1, max_size=4), st.lists(SIDE, min_size=1, max_size=9), st.data())
def test_concatenation_and_split(shape: list[int], sizes: list[int], data: st.DataObject) -> None:
    axis = data.draw(st.integers(0, len(shape) - 1))
    shapes = [[*shape[:axis], size, *shape[axis + 1 :]] for size in sizes]
    parts = [drawn(*s, seed=index) for index, s in enumerate(shapes)]
    assert_same(lambda *x: op.Concatenate.apply(axis, *x), lambda *x: torch.cat(x, axis), parts)
    kept = data.draw(st.integers(0, len(sizes) - 1))  # the others get no gradient
    whole = torch.cat(parts, axis)
    assert_same(lambda x: op.Split.apply(x, axis, sizes)[kept] * 2.0, lambda x: x.split(sizes, axis)[kept] * 2, [whole])
    assert torch.equal(joined([parts[0]] * 3, axis), torch.cat([parts[0]] * 3, axis))


@FEW
@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(1, 3), st.data())
def test_slices(shape: list[int], step: int, data: st.DataObject) -> None:
    axis = data.draw(st.integers(0, len(shape) - 1))
    start = data.draw(st.integers(0, shape[axis] - 1))
    stop = data.draw(st.integers(start + 1, shape[axis]))
    index = (*[slice(None)] * axis, slice(start, stop, step))
    ours = lambda x: op.Slice.apply(x, axis, start, stop, step)  # noqa: E731
    assert_same(ours, lambda x: x[index], [drawn(*shape)])
    assert_numerical(ours, shape)


@FEW
@given(st.lists(st.integers(3, 5), min_size=1, max_size=5), st.integers(-1, 2), st.integers(-1, 2), st.data())
def test_padding_and_cropping(shape: list[int], before: int, behind: int, data: st.DataObject) -> None:
    axis = data.draw(st.integers(0, len(shape) - 1))
    value = data.draw(st.sampled_from([0.0, -1.5]))
    sides = [0] * (2 * (len(shape) - 1 - axis)) + [before, behind]
    x = drawn(*shape)
    assert_same(lambda x: op.Pad.apply(x, axis, before, behind, value), lambda x: F.pad(x, sides, value=value), [x])
    assert torch.equal(fitted(x, axis, before, behind, value), F.pad(x, sides, value=value))


@FEW
@given(st.tuples(*[st.integers(-1, 2)] * 4), st.sampled_from([0.0, -3.0]))
def test_frames(widths: tuple[int, int, int, int], value: float) -> None:
    top, bottom, left, right = widths
    x = drawn(2, 3, 4, 2)
    assert torch.equal(framed(x, *widths, value), F.pad(x, (0, 0, left, right, top, bottom), value=value))


@pytest.mark.parametrize("name", CASES)
def test_every_operator_as_the_runtimes_are_asked(name: str) -> None:
    case = CASES[name]
    assert_same(case.ours, case.theirs, [drawn(*shape, seed=i) for i, shape in enumerate(case.shapes)], case.limit)
