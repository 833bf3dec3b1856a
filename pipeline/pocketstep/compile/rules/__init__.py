"""One table: ATen operator -> what it is in NHWC. One place to add an operator.

A rule takes the walk and the node and returns the value, (B, H, W, C) for what ATen sees as (B, C, H, W), or a value
that says how it lies. An operator without a rule may stand in the frozen prefix, where nothing is differentiated;
behind the cut it is an error.
"""

from pocketstep.compile.rules import (
    activations,
    arithmetic,
    convolution,
    joining,
    linear,
    normalisation,
    pooling,
    resampling,
    shapes,
)
from pocketstep.compile.rules.table import RULES, rule_for

__all__ = [
    "RULES",
    "activations",
    "arithmetic",
    "convolution",
    "joining",
    "linear",
    "normalisation",
    "pooling",
    "resampling",
    "rule_for",
    "shapes",
]
