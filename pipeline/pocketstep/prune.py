"""Thin: compression by activation sparsity (Zhao et al. 2022, §3)."""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch_pruning as tp
from torch import Tensor, fx, nn

from pocketstep_device.errors import InputError

M = TypeVar("M", bound=nn.Module)

_Activation = tuple[set[nn.Module], Tensor]
"""The layers that feed one ReLU, and its zero shares (M, n)."""

_RELUS = (nn.ReLU, nn.ReLU6)
_RELU_CALLS = (nn.functional.relu, nn.functional.relu6, torch.relu, torch.relu_)
_SUMS = (operator.add, operator.iadd, torch.add)


@dataclass(frozen=True)
class ThinnedLayer:
    """One convolution: its filters before and after, and the mean share (0..1) of zeros they produced."""

    name: str
    before: int
    after: int
    zero_share: float


@dataclass(frozen=True)
class ThinReport:
    """What thinning did; multiply-accumulates are those of one image."""

    layers: tuple[ThinnedLayer, ...]
    parameters_before: int
    parameters_after: int
    macs_before: int
    macs_after: int


def thin(
    model: M,
    example_inputs: Tensor,
    threshold: float,
    *,
    ignored_layers: Sequence[nn.Module] = (),
    min_width: int = 4,
    round_to: int = 1,
) -> tuple[M, ThinReport]:
    """Removes as many filters per layer as are weak on an average image (Zhao et al. §3, equations 1 and 2).

    A filter is prunable for an image when the share of zeros in its activation map is at least ``threshold``
    (equation 2). A layer of n filters, avgc of them prunable on the average of the images, keeps n - avgc
    (rounded), those with the lowest mean share of zeros. Layers that a residual sum couples share their
    filters: one is as weak as in the least sparse of its activations. Only layers followed by a ReLU or ReLU6
    (batch norms and sums between) are thinned, and never those that make the network's output. Coupled layers
    are found, and arguments named, as in Torch-Pruning.

    Args:
        model: Any network that torch.fx can trace; stays as it is.
        example_inputs: One batch of images, float (M, C, H, W), normalised.
        threshold: P, 0.5 to 1.0; lower prunes more. The paper uses 0.7 to 1.0.
        ignored_layers: Layers of the model that keep all filters, and so do those coupled with them.
        min_width: Filters that a layer keeps at least.
        round_to: New widths are rounded up to a multiple of this, where the layer has as many.

    Returns:
        The thinned copy, in evaluation mode, to be retrained; and what was done.

    Raises:
        InputError: If an argument is out of range, or the model cannot be traced or has no such layer.
    """
    images = example_inputs
    _check(images, threshold, min_width, round_to)
    places = {module: name for name, module in model.named_modules()}
    thinned = copy.deepcopy(model).eval()
    names = {module: name for name, module in thinned.named_modules()}
    ignored = {thinned.get_submodule(places[layer]) for layer in ignored_layers}
    couplings = list(_couplings(thinned, images, ignored))
    macs_before, parameters_before = tp.utils.count_ops_and_params(thinned, images[:1])
    layers = []
    for convolutions, shares, group in couplings:
        width = _new_width(shares, threshold, min_width, round_to)
        removed = shares.mean(0).argsort(stable=True)[width:].sort().values.tolist()
        before, share = shares.shape[1], shares.mean().item()
        if removed:
            group.prune(removed)
        layers += [ThinnedLayer(names[layer], before, width, share) for layer in convolutions]
    macs, parameters = tp.utils.count_ops_and_params(thinned, images[:1])
    report = ThinReport(tuple(layers), int(parameters_before), int(parameters), int(macs_before), int(macs))
    return thinned, report


def zero_share(maps: Tensor) -> Tensor:
    """Equation 2: the share of zeros in each activation map, (M, n) of (M, n, H, W)."""
    return (maps == 0).float().mean((2, 3))


def _new_width(shares: Tensor, threshold: float, min_width: int, round_to: int) -> int:
    """n - avgc, rounded, of shares (M, n): not under ``min_width``, up to a multiple, not over n."""
    filters = shares.shape[1]
    prunable = (shares >= threshold).sum(1).double().mean().item()
    width = max(round(filters - prunable), min_width)
    return min(math.ceil(width / round_to) * round_to, filters)


def _activations(model: nn.Module, images: Tensor) -> tuple[list[_Activation], set[nn.Module]]:
    """All ReLUs on maps, and the layers that make the network's output."""
    try:
        traced = fx.symbolic_trace(model)
    except (fx.proxy.TraceError, TypeError) as error:
        raise InputError(f"cannot thin: torch.fx does not trace this network ({error}); thin a part of it") from error
    modules = dict(model.named_modules())
    recorder = _Recorder(traced)
    with torch.no_grad():
        recorder.run(images)
    activations = [
        (_layers_behind(node, modules, (nn.BatchNorm2d, nn.Identity)), shares)
        for node, shares in recorder.shares.items()
    ]
    if not any(layers for layers, _ in activations):
        raise InputError("nothing to thin: no ReLU follows a convolution")
    return activations, _layers_behind(next(iter(reversed(traced.graph.nodes))), modules, None)


def _layers_behind(
    end: fx.Node, modules: dict[str, nn.Module], passable: tuple[type[nn.Module], ...] | None
) -> set[nn.Module]:
    """The layers whose outputs reach a node through sums and passable modules (None: through anything)."""
    found: set[nn.Module] = set()
    waiting = list(end.all_input_nodes)
    while waiting:
        node = waiting.pop()
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, nn.Conv2d | nn.Linear):
            found.add(module)
        elif passable is None or isinstance(module, passable) or node.target in _SUMS:
            waiting += node.all_input_nodes
    return found


def _couplings(
    model: nn.Module, images: Tensor, ignored: set[nn.Module]
) -> Iterator[tuple[list[nn.Conv2d], Tensor, Any]]:
    """Convolutions that must keep the same filters, the zero shares of these, and their pruning group."""
    activations, last = _activations(model, images)
    # The dependency graph is read off autograd: the image asks for gradients in case all weights are frozen.
    image = images[:1].detach().clone().requires_grad_()
    with torch.enable_grad():
        graph = tp.DependencyGraph().build_dependency(model, image)
    waiting = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m in graph.module2node]
    while waiting:
        root = waiting[0]
        group = graph.get_pruning_group(root, tp.prune_conv_out_channels, list(range(root.out_channels)))
        outputs = (item.dep for item in group if graph.is_out_channel_pruning_fn(item.dep.handler))
        members = {dependency.target.module for dependency in outputs}
        coupled = [layer for layer in waiting if layer in members]
        waiting = [layer for layer in waiting if layer not in members]
        shares = [share for layers, share in activations if layers & members]
        if shares and not members & (last | ignored):
            yield coupled, torch.stack(shares).amin(0), group


def _check(images: Tensor, threshold: float, min_width: int, round_to: int) -> None:
    if not 0.5 <= threshold <= 1:
        raise InputError(f"cannot prune at threshold {threshold}: give 0.5 to 1.0, for instance 0.9")
    if min_width < 1 or round_to < 1:
        raise InputError(f"min_width {min_width} and round_to {round_to} count filters: give 1 or more")
    if images.ndim != 4 or not len(images) or not images.is_floating_point():
        raise InputError(
            f"cannot measure activations on {images.dtype} {tuple(images.shape)}: "
            "give normalised float images (M, C, H, W)"
        )


class _Recorder(fx.Interpreter):
    """Runs a traced network and keeps the zero shares of every ReLU."""

    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced)
        self.shares: dict[fx.Node, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Keeps the shares when the node is a ReLU on maps."""
        result = super().run_node(n)
        is_relu = (
            isinstance(self.fetch_attr(str(n.target)), _RELUS)
            if n.op == "call_module"
            else n.target in (*_RELU_CALLS, "relu", "relu_")
        )
        if is_relu and result.ndim == 4:
            self.shares[n] = zero_share(result)
        return result
