"""Real networks of torchvision and timm, and the built-in one, in a state whose gradients say something."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import timm
import torch
import torchvision
from torch import nn

from pocketstep.networks import ResidualNet

CLASSES = 5
LARGEST_LOGIT = 1.0  # of noise; others may be ten times larger


@dataclass(frozen=True)
class Case:
    """A network, the side of its images, and cuts to try; None is the one that is found."""

    make: Callable[[], nn.Module]
    side: int
    cuts: tuple[str | None, ...] = (None,)

    def build(self) -> nn.Module:
        """The same weights every time."""
        torch.manual_seed(0)
        return settled(self.make(), self.side)


def vision(name: str, side: int, *cuts: str, **options: bool) -> Case:
    make = lambda: getattr(torchvision.models, name)(weights=None, num_classes=CLASSES, **options)  # noqa: E731
    return Case(make, side, (None, *cuts))


def from_timm(name: str, *cuts: str, side: int = 64) -> Case:
    return Case(lambda: timm.create_model(name, num_classes=CLASSES), side, (None, *cuts))


def wide(widths: tuple[int, ...], blocks: int) -> Case:
    return Case(lambda: ResidualNet(CLASSES, 3, widths, blocks, seed=0), 32, (None, "stem"))


QUICK = {
    "resnet18": vision("resnet18", 64, "conv1"),
    "wrn_16_2": wide((32, 64, 128), 2),
    "vgg11_bn": vision("vgg11_bn", 32, "features.0"),
    "alexnet": vision("alexnet", 64, "features.0"),
    "mobilenet_v3_small": vision("mobilenet_v3_small", 64, "features.0"),
    "squeezenet1_1": vision("squeezenet1_1", 64, "features.0"),
    "shufflenet_v2_x0_5": vision("shufflenet_v2_x0_5", 64, "conv1"),
    "lcnet_050": from_timm("lcnet_050", "bn1"),
    "convnext_atto": from_timm("convnext_atto", "stem"),
    # timm's miniatures: whole families of operators in a second each
    **{name: from_timm(name, cut) for name, cut in {
        "test_resnet": "conv1", "test_efficientnet": "conv_stem", "test_efficientnet_gn": "conv_stem",
        "test_efficientnet_ln": "conv_stem", "test_efficientnet_evos": "conv_stem", "test_byobnet": "stem.conv",
        "test_nfnet": "stem.conv1", "test_convnext2": "stem", "test_mambaout": "stem.conv1",
    }.items()},
}  # fmt: skip
SLOW = {
    "convnext_tiny": vision("convnext_tiny", 64, "features.0"),
    "mobilenet_v2": vision("mobilenet_v2", 64, "features.0"),
    "regnet_y_400mf": vision("regnet_y_400mf", 64, "stem"),
    "resnet26d": from_timm("resnet26d", "conv1"),
    "ecaresnet26t": from_timm("ecaresnet26t", "conv1"),
    "mnasnet0_5": vision("mnasnet0_5", 64, "layers.2"),
    "resnet34": vision("resnet34", 64, "conv1"),
    "wrn_28_10": wide((160, 320, 640), 4),
    "vgg11": vision("vgg11", 32, "features.0"),
    "vgg16": vision("vgg16", 32, "features.0"),
    "vgg16_bn": vision("vgg16_bn", 32, "features.0"),
    "efficientnet_b0": vision("efficientnet_b0", 64, "features.0"),
    "densenet121": vision("densenet121", 64, "features.pool0"),
    "shufflenet_v2_x1_0": vision("shufflenet_v2_x1_0", 64, "conv1"),
    "googlenet": vision("googlenet", 64, "conv1", aux_logits=False, init_weights=False),
    "mnasnet1_0": vision("mnasnet1_0", 64, "layers.0"),
    "ghostnet_100": from_timm("ghostnet_100", "act1"),
    "ghostnetv2_100": from_timm("ghostnetv2_100"),  # upsampling
    "repvgg_a0": from_timm("repvgg_a0", "stem"),
    "hardcorenas_a": from_timm("hardcorenas_a", "bn1"),
    "tf_efficientnet_lite0": from_timm("tf_efficientnet_lite0", "bn1"),  # uneven padding
    "fbnetc_100": from_timm("fbnetc_100", "bn1"),
    "dla34": from_timm("dla34", "base_layer"),
    "regnetx_002": from_timm("regnetx_002", "stem"),
    "mobileone_s0": from_timm("mobileone_s0", "stem"),
    "mixnet_s": from_timm("mixnet_s", "bn1"),  # mixed kernels
    "res2net50_26w_4s": from_timm("res2net50_26w_4s", "act1"),
    "hrnet_w18_small": from_timm("hrnet_w18_small", "conv1"),
    "skresnet18": from_timm("skresnet18", "act1"),  # selective kernels, softmax
    "resnest14d": from_timm("resnest14d", "act1"),
    "poolformer_s12": from_timm("poolformer_s12", "stem"),
    "nfnet_l0": from_timm("nfnet_l0", "stem"),  # standardised weights
    "densenetblur121d": from_timm("densenetblur121d"),
    "cs3darknet_s": from_timm("cs3darknet_s", "stem.conv1"),
    "efficientvit_b0": from_timm("efficientvit_b0", "stem"),  # linear attention
}


def settled(net: nn.Module, side: int) -> nn.Module:
    """In evaluation mode, batch norms with the statistics of one noisy batch, no scale near zero, no softmax at one."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in net.named_parameters():
        if name.rsplit(".", 1)[-1] in ("gamma", "layer_scale", "skipinit_gain", "gain"):
            nn.init.uniform_(parameter, 0.3, 0.8, generator=generator)
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        if norm.affine:
            nn.init.normal_(norm.weight, 1, 0.2, generator=generator)
            nn.init.normal_(norm.bias, 0, 0.2, generator=generator)
    noise = torch.randn(8, 3, side, side, generator=generator)
    with torch.no_grad():
        if norms:
            net.train()(noise)
        largest = float(net.eval()(noise).abs().max())
        if largest > LARGEST_LOGIT:
            layers = [m for m in net.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
            for parameter in next(m for m in reversed(layers) if len(m.weight) == CLASSES).parameters():
                parameter.mul_(LARGEST_LOGIT / largest)
    return net.eval()
