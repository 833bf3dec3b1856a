"""Torch-Pruning's criteria, to compare the activation criterion with at equal parameters."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch_pruning as tp
from torch import Tensor, nn

from pocketstep.prune import ThinnedLayer, ThinReport
from pocketstep_device.errors import InputError

M = TypeVar("M", bound=nn.Module)

_CRITERIA: dict[str, Callable[[], Any]] = {
    "magnitude": lambda: tp.importance.GroupMagnitudeImportance(p=2),
    "magnitude_l1": lambda: tp.importance.GroupMagnitudeImportance(p=1),
    "bn_scale": tp.importance.BNScaleImportance,
    "lamp": tp.importance.LAMPImportance,
    "fpgm": tp.importance.FPGMImportance,
    "taylor": tp.importance.GroupTaylorImportance,
    "hessian": tp.importance.GroupHessianImportance,
    "random": tp.importance.RandomImportance,
}
IMPORTANCES = ("activation", *_CRITERIA)
"""``activation`` is ours (``pocketstep.prune.thin``); the others are Torch-Pruning's."""

_BISECTIONS = 12


def prune(
    model: M,
    example_inputs: Tensor,
    *,
    importance: str = "magnitude",
    pruning_ratio: float = 0.5,
    global_pruning: bool = False,
    ignored_layers: Sequence[nn.Module] = (),
    round_to: int | None = None,
    labels: Tensor | None = None,
    seed: int = 0,
) -> tuple[M, ThinReport]:
    """Removes channels by one of Torch-Pruning's criteria, with its pruner and its argument names.

    Args:
        model: stays as it is.
        example_inputs: normalised float images (B, C, H, W).
        importance: one of ``IMPORTANCES`` but ``activation``.
        pruning_ratio: share of each layer's (or, ``global_pruning``, of all) channels to remove.
        global_pruning: rank channels over all layers.
        ignored_layers: never pruned; the network's output layer never is.
        round_to: new widths are multiples of this.
        labels: int64 (B,), of the images; ``taylor`` and ``hessian`` need them.
        seed: of ``random``.

    Returns:
        The pruned copy, in evaluation mode, and what was done (without zero shares: NaN).

    Raises:
        InputError: an unknown criterion, a ratio out of range, or labels that are missing.
    """
    if importance not in _CRITERIA:
        raise InputError(f"there is no importance '{importance}': choose one of {', '.join(IMPORTANCES)}")
    if not 0 <= pruning_ratio < 1:
        raise InputError(f"cannot prune a share of {pruning_ratio}: give 0 or more, and less than 1")
    if importance in ("taylor", "hessian") and labels is None:
        raise InputError(f"importance '{importance}' looks at gradients: give the labels of the images, too")
    pruned = copy.deepcopy(model).eval()
    places = {module: name for name, module in model.named_modules()}
    kept = [pruned.get_submodule(places[layer]) for layer in ignored_layers]
    kept += [m for m in pruned.modules() if isinstance(m, nn.Linear) and m.out_features == _outputs(model)]
    before = {name: m.out_channels for name, m in pruned.named_modules() if isinstance(m, nn.Conv2d)}
    image = example_inputs[:1].detach().clone().requires_grad_()
    macs_before, parameters_before = tp.utils.count_ops_and_params(pruned, example_inputs[:1])
    criterion = _CRITERIA[importance]()
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pruner = tp.pruner.BasePruner(
            pruned, image, importance=criterion, pruning_ratio=pruning_ratio, global_pruning=global_pruning,
            ignored_layers=kept, round_to=round_to, in_channel_groups={}, out_channel_groups={}, max_pruning_ratio=0.95,
        )  # fmt: skip
        if labels is not None:
            _gradients(pruned, example_inputs, labels, criterion)
        pruner.step()
    pruned.zero_grad()
    layers = tuple(
        ThinnedLayer(name, width, pruned.get_submodule(name).out_channels, float("nan"))  # type: ignore[arg-type]
        for name, width in before.items()
    )
    macs, parameters = tp.utils.count_ops_and_params(pruned, example_inputs[:1])
    return pruned, ThinReport(layers, int(parameters_before), int(parameters), int(macs_before), int(macs))


def prune_to(model: M, example_inputs: Tensor, parameters: int, **settings: Any) -> tuple[M, ThinReport]:
    """``prune`` with the ratio that comes nearest to a number of parameters, found by bisection.

    Raises:
        InputError: the number is not between 1 and the model's; and see ``prune``.
    """
    most = sum(p.numel() for p in model.parameters())
    if not 1 <= parameters <= most:
        raise InputError(f"cannot prune to {parameters:,} parameters: the network has {most:,}; ask for fewer")
    low, high = 0.0, 0.95
    found: list[tuple[M, ThinReport]] = []
    for _ in range(_BISECTIONS):
        ratio = (low + high) / 2
        found.append(prune(model, example_inputs, pruning_ratio=ratio, **settings))
        low, high = (ratio, high) if found[-1][1].parameters_after > parameters else (low, ratio)
        found = [min(found, key=lambda made: abs(made[1].parameters_after - parameters))]
    return found[0]


def _outputs(model: nn.Module) -> int:
    layers = [m for m in model.modules() if isinstance(m, nn.Linear)]
    return layers[-1].out_features if layers else -1


def _gradients(model: nn.Module, images: Tensor, labels: Tensor, criterion: Any) -> None:
    """Gradients of the cross-entropy where the criterion looks for them."""
    model.zero_grad()
    losses = nn.functional.cross_entropy(model(images), labels, reduction="none")
    if not isinstance(criterion, tp.importance.GroupHessianImportance):
        losses.mean().backward()  # type: ignore[no-untyped-call]
        return
    criterion.zero_grad()
    for loss in losses:
        model.zero_grad()
        loss.backward(retain_graph=True)
        criterion.accumulate_grad(model)
