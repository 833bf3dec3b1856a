"""A frozen ring and its trained centre as one operator (CsKO), with exact and with filtered gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pocketstep.compile.operators.convolution import Convolution, fold_parts, tap_offsets
from pocketstep.compile.operators.layout import Pair, aten, frozen, product, rows, to_nchw, to_nhwc
from pocketstep.compile.operators.trained import through_turned


class Decoupled(torch.autograd.Function):
    """Ring and centre: (B, H, W, I) to (B, H', W', O).

    Inputs: x; what the centre tap sees of it, (B, H', W', I), without gradient; the centre's weight (I, O); the ring.
    The weight gradient is one product. Where the ring's input gradient is a product itself, the centre takes the
    place of the ring's zeros in it before columns are folded back; elsewhere it is added.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, tap: Tensor, weight: Tensor, ring: Convolution) -> Tensor:
        ctx.save_for_backward(tap, weight)
        ctx.ring, ctx.size = ring, (x.shape[1], x.shape[2])
        y = ring.forward(x)
        return y + product(rows(tap), weight).reshape(y.shape)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, None, Tensor, None]:
        tap, weight = ctx.saved_tensors
        to_weight = product(rows(tap), rows(g), turn_a=True)
        if not ctx.needs_input_grad[0]:
            return None, None, to_weight, None
        centre = through_turned(rows(g), weight).reshape(tap.shape)
        return _through(ctx.ring, centre, g, ctx.size), None, to_weight, None


def _through(ring: Convolution, centre: Tensor, g: Tensor, size: Pair) -> Tensor:
    """Input gradient of ring and centre together, given the centre's share of it (B, H', W', I)."""
    height, width = ring.kernel.shape[2:]
    offsets, channels = tap_offsets((height, width), ring.dilation), centre.shape[3]
    middle = offsets[height // 2 * width + width // 2]
    if ring.gradient_form(g.shape[0] * g.shape[1] * g.shape[2]) != "product":
        return ring.backward(g, size) + fold_parts({middle: centre}, ring.stride, ring.padding, size)
    columns = ring.columns(g)
    parts = {offset: columns[..., n * channels : (n + 1) * channels] for n, offset in enumerate(offsets)}
    return fold_parts({**parts, middle: centre}, ring.stride, ring.padding, size)


class FilteredCentre(torch.autograd.Function):
    """A ring and its trained centre whose backward sees maps averaged over patches of 2x2 pixels.

    Gradient filtering (Yang et al. 2023, section 3): the output gradient is taken as constant within a patch, so that
    the weight gradient is a product of a quarter of the rows, and the input gradient a product with the kernel's
    spatial sum. Inputs: x (B, H, W, I) with even sides, weight (I, O), the ring, whether the ring carries gradient.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, ring: Convolution, through_ring: bool) -> Tensor:
        ctx.save_for_backward(patch_means(x), weight)
        ctx.sums = frozen(lambda: ring.kernel.sum((2, 3)).contiguous()) if through_ring else None
        return ring.forward(x) + product(rows(x), weight).reshape(*x.shape[:3], -1)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None, None]:
        means, weight = ctx.saved_tensors
        small = patch_means(g)
        back = product(rows(small), weight, turn_b=True)
        if ctx.sums is not None:
            back = back + product(rows(small), ctx.sums)
        grown = doubled(back.reshape(*small.shape[:3], -1))
        return grown, product(rows(means), rows(small), turn_a=True) * 4.0, None, None


def patch_means(x: Tensor) -> Tensor:
    """Means over patches of 2x2 pixels: (B, H, W, C) to (B, H/2, W/2, C)."""
    return to_nhwc(aten.avg_pool2d(to_nchw(x), [2, 2], [2, 2]))


def doubled(x: Tensor) -> Tensor:
    """Every pixel four times: (B, H, W, C) to (B, 2H, 2W, C)."""
    b, h, w, c = x.shape
    wide = torch.cat([x, x * 1.0], 3).reshape(b * h, 2 * w * c)  # the same node twice is no join to XNNPACK
    return torch.cat([wide, wide * 1.0], 1).reshape(b, 2 * h, 2 * w, c)
