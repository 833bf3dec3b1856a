"""NHWC operators whose backward uses inference operators only.

Every engine has and accelerates convolution with constant weights, products, add, multiply, reduce, reshape and pad;
neither forward nor backward here uses anything else. Activations are (B, H, W, C) float32 from end to end: only the
constant convolution is wrapped in permutes, which the lowerings cancel.
"""

from pocketstep.compile.operators.activations import (
    Clip,
    HardSigmoid,
    HardSwish,
    LeakyRelu,
    SlopedRelu,
    positive,
)
from pocketstep.compile.operators.arithmetic import (
    Absolute,
    Add,
    Divide,
    Exponential,
    Larger,
    Logarithm,
    Multiply,
    Power,
    Subtract,
)
from pocketstep.compile.operators.convolution import Columns, ConstantConvolution, Convolution, flip
from pocketstep.compile.operators.decoupled import Decoupled, FilteredCentre
from pocketstep.compile.operators.joining import Concatenate, Pad, Slice, Split
from pocketstep.compile.operators.layout import Pair, column_sums, frozen, product, row_sums, rows, to_nchw, to_nhwc
from pocketstep.compile.operators.linear import BatchProduct
from pocketstep.compile.operators.maxima import Largest, MaxPool
from pocketstep.compile.operators.normalisation import GroupNorm, LayerNorm
from pocketstep.compile.operators.pooling import AveragePool, PairMean, Pool, Windows, grid_pool
from pocketstep.compile.operators.resampling import Resample
from pocketstep.compile.operators.sampling import Subsample, Window, interleaved, phases, subsample, zero_stuff
from pocketstep.compile.operators.smooth import Elu, Gelu, Mish, Sigmoid, Silu, Softmax, Softplus, Tanh
from pocketstep.compile.operators.sums import Repeat, Sum, reduced, repeated, total
from pocketstep.compile.operators.trained import (
    CentreProduct,
    CentreScale,
    DepthwiseTaps,
    GroupedProduct,
    Matrix,
    Shift,
)

__all__ = [
    "Absolute",
    "Add",
    "AveragePool",
    "BatchProduct",
    "CentreProduct",
    "CentreScale",
    "Clip",
    "Columns",
    "Concatenate",
    "ConstantConvolution",
    "Convolution",
    "Decoupled",
    "DepthwiseTaps",
    "Divide",
    "Elu",
    "Exponential",
    "FilteredCentre",
    "Gelu",
    "GroupNorm",
    "GroupedProduct",
    "HardSigmoid",
    "HardSwish",
    "Larger",
    "Largest",
    "LayerNorm",
    "LeakyRelu",
    "Logarithm",
    "Matrix",
    "MaxPool",
    "Mish",
    "Multiply",
    "Pad",
    "Pair",
    "PairMean",
    "Pool",
    "Power",
    "Repeat",
    "Resample",
    "Shift",
    "Sigmoid",
    "Silu",
    "Slice",
    "SlopedRelu",
    "Softmax",
    "Softplus",
    "Split",
    "Subsample",
    "Subtract",
    "Sum",
    "Tanh",
    "Window",
    "Windows",
    "column_sums",
    "flip",
    "frozen",
    "grid_pool",
    "interleaved",
    "phases",
    "positive",
    "product",
    "reduced",
    "repeated",
    "row_sums",
    "rows",
    "subsample",
    "to_nchw",
    "to_nhwc",
    "total",
    "zero_stuff",
]
