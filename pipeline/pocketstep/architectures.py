"""Networks by name, in the form that small images need: what recipes can ask for."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import nn

from pocketstep.wide import WideResNet
from pocketstep_device.errors import InputError

NAMES = (
    "wrn-DEPTH-WIDEN (such as wrn-16-4 or wrn-28-10), resnet18, resnet34, vgg16, alexnet, mobilenet_v2; "
    "vgg16-0.25 or alexnet-0.5 for narrower ones"
)
_SMALL = 64
"""Images with a shorter side get the CIFAR form: fewer strides at the entry, a head without hidden layers."""


@dataclass(frozen=True)
class Blueprint:
    """How a network was made, so that its file can be read again; pruning's widths are in the weights.

    Attributes:
        network: its name.
        classes: width of the head.
        in_channels: of the images.
        size: (H, W) of the images.
        shallow: whether each group has its last block only.
        pattern: of the groups' blocks, where the user gave one.
    """

    network: str
    classes: int
    in_channels: int
    size: tuple[int, int]
    shallow: bool = False
    pattern: str | None = None


def build_network(blueprint: Blueprint, *, seed: int = 0) -> nn.Module:
    """A new network of a blueprint's name, at its full depth and width.

    Args:
        blueprint: what to build.
        seed: Of the initial weights; the global random state is left as it was.

    Raises:
        InputError: there is no network of that name, or it cannot be built so.
    """
    name, classes, channels = blueprint.network, blueprint.classes, blueprint.in_channels
    wide = re.fullmatch(r"wrn-(\d{1,3})-(\d{1,2}(?:\.\d+)?)", name)
    slim = re.fullmatch(r"(vgg16|alexnet)-(0\.\d{1,3})", name)
    if wide:
        model: nn.Module = WideResNet(classes, channels, int(wide[1]), float(wide[2]), seed=seed)
    elif slim:
        model = _narrow(build_network(replace(blueprint, network=slim[1]), seed=seed), float(slim[2]), seed)
    elif name in _BUILDERS:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = _BUILDERS[name](name, classes, channels, min(blueprint.size) < _SMALL)
    else:
        raise InputError(f"there is no network '{name}': choose {NAMES}")
    mark(model, blueprint)
    return model


def blueprint_of(model: nn.Module) -> Blueprint | None:
    """How the network was made, if it was made from a blueprint."""
    found = getattr(model, "blueprint", None)
    return found if isinstance(found, Blueprint) else None


def mark(model: nn.Module, blueprint: Blueprint) -> None:
    """Writes down in the network how it was made."""
    model.blueprint = blueprint  # type: ignore[assignment]


def _narrow(model: nn.Module, factor: float, seed: int) -> nn.Module:
    """A plain stack of convolutions with a share of its filters, for small images: new weights, the same layers."""
    inputs, body = None, model.get_submodule("features")
    assert isinstance(body, nn.Sequential)
    if len(layers := [m for m in model.get_submodule("classifier").modules() if isinstance(m, nn.Linear)]) > 1:
        raise InputError("narrow networks are for images below 64 pixels: their head is one layer")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for index, layer in enumerate(body):
            if isinstance(layer, nn.Conv2d):
                before, inputs = inputs or layer.in_channels, max(1, round(layer.out_channels * factor))
                body[index] = nn.Conv2d(before, inputs, layer.kernel_size, layer.stride, layer.padding)  # type: ignore[arg-type]
            elif isinstance(layer, nn.BatchNorm2d):
                body[index] = nn.BatchNorm2d(inputs or layer.num_features)
        model.classifier = nn.Sequential(nn.Linear(inputs or 1, layers[0].out_features))
    return model


def _resnet(name: str, classes: int, channels: int, small: bool) -> nn.Module:
    from torchvision import models

    model: nn.Module = models.get_model(name, weights=None, num_classes=classes)
    if small:
        model.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        model.maxpool = nn.Identity()
    elif channels != 3:
        model.conv1 = nn.Conv2d(channels, 64, 7, 2, padding=3, bias=False)
    return model


def _vgg(name: str, classes: int, channels: int, small: bool) -> nn.Module:
    from torchvision import models

    model: Any = models.vgg16_bn(weights=None, num_classes=classes)
    if channels != 3:
        model.features[0] = nn.Conv2d(channels, 64, 3, padding=1)
    if small:
        model.avgpool, model.classifier = nn.AdaptiveAvgPool2d(1), nn.Sequential(nn.Linear(512, classes))
    return cast(nn.Module, model)


def _alexnet(name: str, classes: int, channels: int, small: bool) -> nn.Module:
    from torchvision import models

    model: Any = models.alexnet(weights=None, num_classes=classes)
    if small:
        model.features[0] = nn.Conv2d(channels, 64, 3, 2, padding=1)
        model.avgpool, model.classifier = nn.AdaptiveAvgPool2d(1), nn.Sequential(nn.Linear(256, classes))
    elif channels != 3:
        model.features[0] = nn.Conv2d(channels, 64, 11, 4, padding=2)
    return cast(nn.Module, model)


def _mobilenet(name: str, classes: int, channels: int, small: bool) -> nn.Module:
    from torchvision import models

    model: Any = models.mobilenet_v2(weights=None, num_classes=classes)
    stem = model.features[0]
    assert isinstance(stem, nn.Sequential)
    if small or channels != 3:
        stem[0] = nn.Conv2d(channels, 32, 3, 1 if small else 2, padding=1, bias=False)
    if small:  # the second halving of the map, too
        for module in model.features[2].modules():
            if isinstance(module, nn.Conv2d) and module.stride == (2, 2):
                module.stride = (1, 1)
    return cast(nn.Module, model)


_BUILDERS: dict[str, Callable[[str, int, int, bool], nn.Module]] = {
    "resnet18": _resnet, "resnet34": _resnet, "vgg16": _vgg, "alexnet": _alexnet, "mobilenet_v2": _mobilenet,
}  # fmt: skip
