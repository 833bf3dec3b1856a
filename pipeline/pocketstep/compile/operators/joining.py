"""Joining, splitting, cropping and padding along one axis of tensors of any rank."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor

from pocketstep.compile.operators.layout import fitted, frozen, joined


class Concatenate(torch.autograd.Function):
    """Tensors one behind the other along ``axis``; the gradient is cut apart again."""

    @staticmethod
    def forward(ctx: Any, axis: int, *parts: Tensor) -> Tensor:
        ctx.axis, ctx.sizes = axis, [part.shape[axis] for part in parts]
        return joined(parts, axis)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        starts = [sum(ctx.sizes[:index]) for index in range(len(ctx.sizes))]
        wanted = zip(starts, ctx.sizes, ctx.needs_input_grad[1:], strict=True)
        return None, *(g.narrow(ctx.axis, start, size) if needed else None for start, size, needed in wanted)


class Split(torch.autograd.Function):
    """The counterpart of :class:`Concatenate`: pieces of the given sizes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, axis: int, sizes: Sequence[int]) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.axis, ctx.shape, ctx.sizes = axis, x.shape, sizes
        starts = [sum(sizes[:index]) for index in range(len(sizes))]
        return tuple(x.narrow(axis, start, size) for start, size in zip(starts, sizes, strict=True))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor, None, None]:
        axis, whole = ctx.axis, list(ctx.shape)
        parts = [
            frozen(partial(torch.zeros, [*whole[:axis], size, *whole[axis + 1 :]])) if g is None else g
            for g, size in zip(gradients, ctx.sizes, strict=True)
        ]
        return joined(parts, axis), None, None


class Slice(torch.autograd.Function):
    """Every ``step``-th from ``start`` to before ``stop`` along ``axis``; zeros elsewhere in the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, axis: int, start: int, stop: int, step: int) -> Tensor:
        ctx.place, ctx.shape = (axis, start, stop, step), x.shape
        part = fitted(x, axis, -start, stop - x.shape[axis])
        if step == 1:
            return part
        count, before, behind = -(-(stop - start) // step), prod(x.shape[:axis]), prod(x.shape[axis + 1 :])
        part = fitted(part, axis, 0, count * step - (stop - start))
        kept = part.reshape(before * count, step * behind)[:, :behind]
        return kept.reshape(*x.shape[:axis], count, *x.shape[axis + 1 :])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None, None]:
        (axis, start, stop, step), shape = ctx.place, ctx.shape
        count, before, behind = g.shape[axis], prod(shape[:axis]), prod(shape[axis + 1 :])
        if step > 1:
            g = fitted(g.reshape(before * count, 1, behind), 1, 0, step - 1)
            g = g.reshape(*shape[:axis], count * step, *shape[axis + 1 :])
            g = fitted(g, axis, 0, (stop - start) - count * step)
        return fitted(g, axis, start, shape[axis] - stop), None, None, None, None


class Pad(torch.autograd.Function):
    """``before`` and ``behind`` more along ``axis``, of a constant value; negative numbers crop."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, axis: int, before: int, behind: int, value: float) -> Tensor:
        ctx.place = axis, before, behind
        return fitted(x, axis, before, behind, value)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None, None]:
        axis, before, behind = ctx.place
        return fitted(g, axis, -before, -behind), None, None, None, None
