"""Which weights a phase may move: all, or not those that matter to known classes, or only channels that new data wants.

The sums come from the program's ``score``; here they are only ranked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from pocketstep_device.manifest import PathAxis
from pocketstep_device.runtimes import Array

Values = dict[str, Array]
GRADIENT, IMPORTANCE = "gradient.", "importance."


def everything(names: list[str], values: Mapping[str, Array]) -> Values:
    """Every weight may move."""
    return {name: np.ones_like(values[name]) for name in names}


def without_important(scores: Mapping[str, Array], names: list[str], share: float, by_layer: bool) -> Values:
    """All but the share of weights that matter most to known classes (weight freezing: importance is (g w)^2).

    Args:
        scores: outputs of ``score`` over samples of known classes.
        names: trained tensors.
        share: 0 to 1, of all weights together, or of each tensor with ``by_layer``.
    """
    importance = {name: scores[IMPORTANCE + name] for name in names}
    every = np.quantile(np.concatenate([i.ravel() for i in importance.values()]), 1 - share)
    limits = {n: np.quantile(i, 1 - share) if by_layer else every for n, i in importance.items()}
    return {n: (i <= limits[n]).astype(np.float32) for n, i in importance.items()}


def selected_channels(scores: Mapping[str, Array], names: list[str], kept: float) -> Values:
    """CsKO's channel selection: of each trained kernel the share of inputs whose signed gradient sums are large.

    Score of an input: the mean over outputs of |sum over samples of the gradient| (research, section 1). Kernels are
    (inputs, outputs); every other tensor may move.
    """
    masks: Values = {}
    for name in names:
        size = np.abs(scores[GRADIENT + name])
        masks[name] = np.ones_like(size)
        if size.ndim == 2 and not name.startswith("head."):
            by_input = size.mean(1)
            count = max(1, int(kept * len(by_input)))
            masks[name][np.argsort(-by_input, kind="stable")[count:]] = 0.0
    return masks


def of_paths(paths: Sequence[PathAxis], values: Mapping[str, Array], names: list[str], rates: Array) -> Values:
    """A rate for each path: what its weights' updates are multiplied with; 0 outside the paths' blocks.

    Args:
        paths: the manifest's.
        values: the state, for shapes.
        names: trained tensors; those without paths may move.
        rates: (slots,), of each path.
    """
    found: Values = {}
    for name in names:
        owner = owners([p for p in paths if p.name == name], values[name].shape)
        found[name] = (
            np.where(owner < 0, np.float32(0), rates[owner]) if owner is not None else np.ones_like(values[name])
        )
    return found


def owners(axes: Sequence[PathAxis], shape: tuple[int, ...]) -> npt.NDArray[np.int64] | None:
    """Which path each weight of a tensor belongs to, -1 for none; None for a tensor without paths."""
    grids = [np.arange(shape[p.axis]).reshape([-1 if i == p.axis else 1 for i in range(len(shape))]) // p.size
             for p in axes]  # fmt: skip
    if not grids:
        return None
    first, *others = np.broadcast_arrays(*grids, np.zeros(shape, np.int64))[: len(grids)]
    same = np.logical_and.reduce([first == other for other in others]) if others else np.ones(shape, np.bool_)
    return np.where(same, first, -1)


def together(parts: list[Values]) -> Values:
    """What all masks allow."""
    first, *others = parts
    return {name: np.prod([mask, *(o[name] for o in others)], axis=0, dtype=np.float32) for name, mask in first.items()}
