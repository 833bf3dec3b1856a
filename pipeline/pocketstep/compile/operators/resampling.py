"""Maps whose rows and columns are mixed by constant matrices: interpolation, uneven pooling, reflecting frames."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pocketstep.compile.operators.layout import frozen


class Resample(torch.autograd.Function):
    """(B, H, W, C) to (B, H', W', C): rows mixed by a constant (H', H), columns by a constant (W', W)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        ctx.matrices = rows, columns
        return resampled(x, rows, columns)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        rows, columns = ctx.matrices
        return resampled(g, frozen(rows.t), frozen(columns.t)), None, None


def resampled(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Rows first where that leaves less to do."""
    if rows.shape[0] * x.shape[2] <= columns.shape[0] * x.shape[1]:
        return _columns(_rows(x, rows), columns)
    return _rows(_columns(x, columns), rows)


def _rows(x: Tensor, matrix: Tensor) -> Tensor:
    b, h, w, c = x.shape
    if _is_identity(matrix):
        return x
    mixed = torch.bmm(frozen(lambda: matrix.expand(b, *matrix.shape).contiguous()), x.reshape(b, h, w * c))
    return mixed.reshape(b, -1, w, c)


def _columns(x: Tensor, matrix: Tensor) -> Tensor:
    return x if _is_identity(matrix) else _rows(x.permute(0, 2, 1, 3), matrix).permute(0, 2, 1, 3)


def _is_identity(matrix: Tensor) -> bool:
    return bool(frozen(lambda: torch.equal(matrix, torch.eye(*matrix.shape, dtype=matrix.dtype))))  # type: ignore[arg-type,return-value]
