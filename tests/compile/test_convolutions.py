"""Forms of a convolution's gradients, against PyTorch's autograd in double precision."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from test_operators import FEW, Geometry, assert_same, drawn, geometries
from torch import Tensor

from pocketstep.compile import operators as op
from pocketstep.compile.operators.convolution import fold_parts
from pocketstep.compile.walk import from_products, to_products


@pytest.fixture(scope="module", autouse=True)
def _double_precision() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def reference(x: Tensor, kernel: Tensor, geometry: Geometry) -> Tensor:
    rest = geometry.stride, geometry.padding, geometry.dilation, geometry.groups
    return op.to_nhwc(F.conv2d(op.to_nchw(x), kernel, None, *rest))


@FEW
@given(geometries(), st.sampled_from(["product", "transposed", "flipped"]))
def test_every_form_of_the_input_gradient(geometry: Geometry, form: str) -> None:
    kernel = drawn(geometry.outputs, geometry.inputs // geometry.groups, *geometry.kernel).detach()
    rest = geometry.stride, geometry.padding, geometry.dilation, geometry.groups
    convolution = op.Convolution(kernel, None, *rest)
    if geometry.groups > 1 and form != "flipped":
        assert convolution.gradient_form(1) == "flipped"
        return
    if form == "transposed" and geometry.dilation != (1, 1):
        assert convolution.gradient_form(10**6) != "transposed"
        return
    convolution.gradient_form = lambda pixels: form  # type: ignore[method-assign]
    x = drawn(2, *geometry.size, geometry.inputs, seed=2)
    assert_same(op.ConstantConvolution.apply(x, convolution), reference(x, kernel, geometry), {"x": x})


def test_the_form_follows_size_stride_and_sharing() -> None:
    def form(kernel: tuple[int, ...], stride: int, pixels: int, compact: bool = False, dilation: int = 1) -> str:
        sides = (stride, stride), (1, 1), (dilation, dilation)
        return op.Convolution(torch.zeros(kernel), None, *sides, 1, compact).gradient_form(pixels)

    assert form((512, 512, 3, 3), 1, 64) == "product"
    assert form((64, 64, 3, 3), 1, 4096) == "flipped"
    assert form((64, 64, 3, 3), 2, 4096) == "transposed"
    assert form((64, 64, 3, 3), 2, 4096, dilation=2) == "flipped"
    assert form((64, 64, 1, 1), 2, 4096) == "product"
    assert form((64, 64, 3, 3), 1, 4096, compact=True) == "product"


def test_parts_are_moved_only_where_they_must() -> None:
    part = drawn(2, 4, 5, 3)
    assert fold_parts({(1, 1): part}, (1, 1), (1, 1), (4, 5)) is part
    moved = fold_parts({(0, 2): part}, (1, 1), (1, 1), (4, 5))
    assert torch.equal(moved, F.pad(part[:, 1:, :4], (0, 0, 1, 0, 0, 1)))
    unseen = fold_parts({(0, 0): drawn(2, 2, 2, 3)}, (1, 1), (2, 2), (3, 3))
    assert torch.equal(unseen, torch.zeros(2, 3, 3, 3))


@FEW
@given(geometries())
def test_all_taps_of_any_geometry(geometry: Geometry) -> None:
    """Dense, grouped and depthwise kernels as products of columns; gradients to the input and to every tap."""
    x = drawn(2, *geometry.size, geometry.inputs)
    per_group = geometry.inputs // geometry.groups
    kernel = drawn(geometry.outputs, per_group, *geometry.kernel, seed=1)
    taps = geometry.kernel[0] * geometry.kernel[1]
    depthwise = geometry.groups > 1 and per_group == 1 and geometry.outputs == geometry.groups
    columns = op.Columns.apply(x, geometry.kernel, geometry.stride, geometry.padding, geometry.dilation)
    if depthwise:
        trained = to_products(kernel, (taps, geometry.outputs))
        ours = op.DepthwiseTaps.apply(columns, trained)
    elif geometry.groups > 1:
        shape = (geometry.groups, taps * per_group, geometry.outputs // geometry.groups)
        trained = to_products(kernel, shape)
        ours = op.GroupedProduct.apply(columns, trained, taps)
    else:
        trained = to_products(kernel, (taps * per_group, geometry.outputs))
        ours = op.CentreProduct.apply(columns, trained)
    assert torch.equal(from_products(trained, kernel.shape), kernel)
    assert_same(ours, reference(x, kernel, geometry), {"x": x, "kernel": kernel})


@FEW
@given(st.tuples(st.integers(1, 5), st.integers(1, 5)), st.integers(1, 3), st.integers(1, 3), st.booleans())
def test_filtered_gradient_is_the_average_over_patches(
    half: tuple[int, int], inputs: int, outputs: int, through_ring: bool
) -> None:
    """Yang et al. 2023: weight gradient from patch means, input gradient through the kernel's spatial sum."""
    x, centre = drawn(2, 2 * half[0], 2 * half[1], inputs), drawn(inputs, outputs, seed=1)
    kernel = drawn(outputs, inputs, 3, 3, seed=2).detach().clone()
    kernel[:, :, 1, 1] = 0
    ring = op.Convolution(kernel, None, (1, 1), (1, 1), (1, 1), 1)
    ours = op.FilteredCentre.apply(x, centre, ring, through_ring)
    whole = kernel.clone()
    whole[:, :, 1, 1] = centre.detach().t()
    expected = op.to_nhwc(F.conv2d(op.to_nchw(x), whole, None, 1, 1))
    torch.testing.assert_close(ours, expected)
    g = drawn(*ours.shape, seed=9).detach()
    to_x, to_centre = torch.autograd.grad(ours, (x, centre), g)
    small, means = (F.avg_pool2d(op.to_nchw(t), 2) for t in (g, x.detach()))
    torch.testing.assert_close(to_centre, 4 * torch.einsum("bihw,bohw->io", means, small))
    summed = whole.sum((2, 3)) if through_ring else centre.detach().t()
    back = torch.einsum("bohw,oi->bihw", small, summed).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(op.to_nchw(to_x), back)


@pytest.mark.parametrize("same", [True, False])
def test_filtering_a_constant_map_changes_nothing(same: bool) -> None:
    """Where gradient and input are constant within patches and kernels 1x1 at heart, the filter is exact."""
    x = op.to_nhwc(F.interpolate(drawn(1, 2, 3, 3).detach(), scale_factor=2)).requires_grad_()
    centre = drawn(2, 3, seed=1)
    ring = op.Convolution(torch.zeros(3, 2, 3, 3), None, (1, 1), (1, 1), (1, 1), 1)
    ours = op.FilteredCentre.apply(x, centre, ring, same)
    g = op.to_nhwc(F.interpolate(drawn(1, 3, 3, 3, seed=2).detach(), scale_factor=2))
    exact = torch.autograd.grad(op.CentreProduct.apply(x, centre), (x, centre), g)
    for one, other in zip(torch.autograd.grad(ours, (x, centre), g), exact, strict=True):
        torch.testing.assert_close(one, other)
