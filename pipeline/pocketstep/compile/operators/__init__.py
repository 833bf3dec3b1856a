"""NHWC operators whose backward uses inference operators only.

Every engine has and accelerates convolution with constant weights, products, add, multiply, reduce, reshape and pad;
neither forward nor backward here uses anything else. Activations are (B, H, W, C) float32 from end to end: only the
constant convolution is wrapped in permutes, which the lowerings cancel.
"""

from pocketstep.compile.operators.activations import Clip
from pocketstep.compile.operators.convolution import Columns, ConstantConvolution, Convolution, flip
from pocketstep.compile.operators.layout import (
    Pair,
    column_sums,
    frozen,
    product,
    row_sums,
    rows,
    to_nchw,
    to_nhwc,
)
from pocketstep.compile.operators.pooling import Pool, grid_pool
from pocketstep.compile.operators.sampling import Subsample, Window, subsample, zero_stuff
from pocketstep.compile.operators.trained import CentreProduct, CentreScale, Matrix, Shift

__all__ = [
    "CentreProduct", "CentreScale", "Clip", "Columns", "ConstantConvolution", "Convolution", "Matrix", "Pair", "Pool",
    "Shift", "Subsample", "Window", "column_sums", "flip", "frozen", "grid_pool", "product", "row_sums", "rows",
    "subsample", "to_nchw", "to_nhwc", "zero_stuff",
]  # fmt: skip
