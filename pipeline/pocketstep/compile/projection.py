"""``project``: matrices that keep updates out of the directions in which known data lies (CsKO, after Adam-NSCL).

An update whose rows are multiplied with P from the left changes the answers to inputs x only by (P x); P comes from
the uncentred covariance C of all inputs so far. ``hard`` is the projector onto the eigenvectors with eigenvalues up to
``null_ratio`` times their mean: P = (I - sign(C - t I)) / 2, the sign by Newton-Schulz. ``soft`` is
(I + C / (tau * mean eigenvalue))^-1, which fades instead. Both are matrix products only. CsKO's code takes the
threshold from the smallest eigenvalue, which in float32 is noise, and divides P by its norm, which only scales the
rate; here neither is done.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pocketstep.compile.closed_form import as_diagonal, diagonal, inverse
from pocketstep.compile.graph import aten
from pocketstep.compile.operators import column_sums, frozen, row_sums
from pocketstep.compile.options import Range, StepOptions
from pocketstep.compile.signatures import LearningModel, Signature, Spec, Values

SIGN_ITERATIONS = 30
"""An eigenvalue at a distance of d from the threshold, relative to the norm, needs log(1 / d) / log(1.5) of them."""


def hyper(options: StepOptions) -> dict[str, Range]:
    """The rates of ``project``; none without it."""
    if options.projection == "none":
        return {}
    return {
        "null_ratio": (0.05, 1e-4, 100.0, "hard projection: largest eigenvalue of the null space, in mean eigenvalues"),
        "tau": (0.1, 0.05, 1e3, "soft projection: eigenvalue that halves an update, in mean eigenvalues"),
    }


def sizes(model: LearningModel, options: StepOptions) -> dict[str, int]:
    """Trained kernels whose update is projected -> how many inputs they have: those that mix all channels."""
    if options.projection == "none":
        return {}
    network = model.network
    convolutions = [n for n in network.operators if n.target is aten.convolution.default and n.args[8] == 1]
    dense = {name for node in convolutions for name, _ in network.weights(node)}
    return {
        p.trained: p.trained_shape[0]
        for p in model.plan.trained
        if p.trained and p.trained_shape and p.role in ("centre", "full") and p.name in dense
    }


def specs(model: LearningModel, options: StepOptions) -> list[Spec]:
    """The matrices, as part of the state."""
    meaning = "matrix that the update is multiplied with, from the left"
    return [Spec(f"projection.{n}", (i, i), "state", meaning) for n, i in sizes(model, options).items()]


def covariance_specs(model: LearningModel, options: StepOptions, source: str) -> list[Spec]:
    """Uncentred second moments of what projected kernels see."""
    return [Spec(f"covariance.{n}", (i, i), source, "sum of X'X of inputs") for n, i in sizes(model, options).items()]


def project(model: LearningModel, options: StepOptions) -> Signature:
    """Covariances -> projections."""
    names = list(sizes(model, options))

    def function(v: Values) -> dict[str, Tensor]:
        return {f"projection.{n}": projector(v[f"covariance.{n}"], v["hard"], v["null_ratio"], v["tau"]) for n in names}

    rates = [Spec(name, (1,), "hyper", meaning) for name, (_, _, _, meaning) in hyper(options).items()]
    hard = Spec("hard", (1,), "control", "1: onto the null space, 0: soft")
    inputs = (*covariance_specs(model, options, "state"), hard, *rates)
    return Signature("project", 1, inputs, tuple(specs(model, options)), function)


def projector(covariance: Tensor, hard: Tensor, null_ratio: Tensor, tau: Tensor) -> Tensor:
    """One matrix (n, n); see the module. Zero covariance (nothing seen) gives the identity."""
    size = covariance.shape[0]
    level = (column_sums(diagonal(covariance)) * (1.0 / size)).clamp(min=1e-12)
    relative = covariance / level
    eye = as_diagonal(frozen(lambda: torch.ones(size, 1)))
    soft = inverse(eye + relative / tau.reshape(1, 1))
    null = (eye - matrix_sign(relative - eye * null_ratio.reshape(1, 1))) * 0.5
    return soft + (null - soft) * hard.reshape(1, 1)


def matrix_sign(a: Tensor) -> Tensor:
    """sign(A) of a symmetric (n, n) matrix by Newton-Schulz, X <- (3 X - X^3) / 2, from A / ||A||_F."""
    size = a.shape[0]
    norm = torch.sqrt(column_sums(row_sums(a * a))) + 1e-12
    x = (a / norm).reshape(1, size, size)
    for _ in range(SIGN_ITERATIONS):
        x = x * 1.5 - torch.bmm(x, torch.bmm(x, x)) * 0.5
    return x.reshape(size, size)
