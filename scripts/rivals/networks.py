"""The networks that are compared, in plain torch, and the plans applied to them.

``small``, ``resnet18`` and ``mobilenet_v2`` are factories for ``pocketstep export --model networks:small``; the rivals
get the same weights with batch norms folded, and the plan as a list of parameters that require gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
import torchvision
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse

CLASSES = 10
INPUTS = {"small": (3, 32, 32), "resnet18": (3, 64, 64), "mobilenet_v2": (3, 64, 64)}
BATCHES = {"small": 32, "resnet18": 16, "mobilenet_v2": 16}
CUTS = {  # what is trained lies behind these modules
    "small": {"centre": "stem", "last": "b2"},
    "resnet18": {"centre": "layer1", "last": "layer4.0"},
    "mobilenet_v2": {"centre": "features.6", "last": "features.16"},
}


class Block(nn.Module):
    """Two 3x3 convolutions beside a 1x1 shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.c2 = nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.short = nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        return torch.relu(self.c2(torch.relu(self.c1(x))) + self.short(x))


class Small(nn.Module):
    """A stem and three residual blocks, 0.3 M parameters, 46 M multiply-adds on 32x32 images."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 1, 1)
        self.b1, self.b2, self.b3 = Block(16, 32, 1), Block(32, 64, 2), Block(64, 128, 2)
        self.fc = nn.Linear(128, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> logits (B, classes)."""
        x = self.b3(self.b2(self.b1(torch.relu(self.stem(x)))))
        return cast(Tensor, self.fc(x.mean((2, 3))))


class Decoupled(nn.Module):
    """A convolution as a frozen ring and a trainable centre (CsKO): the same output, another parametrisation."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        height, width = conv.kernel_size
        down, right = conv.stride
        middle = conv.weight.detach()[:, :, height // 2, width // 2].clone()
        self.ring = conv
        self.centre = nn.Conv2d(conv.in_channels, conv.out_channels, 1, (down, right), 0, 1, conv.groups, bias=False)
        with torch.no_grad():
            self.ring.weight[:, :, height // 2, width // 2] = 0
            self.centre.weight[:, :, 0, 0] = middle

    def forward(self, x: Tensor) -> Tensor:
        """What the whole kernel gives."""
        return cast(Tensor, self.ring(x)) + self._centre(x)

    def _centre(self, x: Tensor) -> Tensor:
        if self.centre.groups == 1:
            return cast(Tensor, self.centre(x))
        down, right = self.centre.stride
        return x[:, :, ::down, ::right] * self.centre.weight.reshape(1, -1, 1, 1)  # faster than a grouped convolution


def small() -> nn.Module:
    """The residual network of the design's proof of concept."""
    torch.manual_seed(0)
    return Small().eval()


def resnet18() -> nn.Module:
    """torchvision's, random weights, ten classes."""
    return _calibrated(torchvision.models.resnet18, INPUTS["resnet18"])


def mobilenet_v2() -> nn.Module:
    """torchvision's, random weights, ten classes."""
    return _calibrated(torchvision.models.mobilenet_v2, INPUTS["mobilenet_v2"])


FACTORIES: dict[str, Callable[[], nn.Module]] = {"small": small, "resnet18": resnet18, "mobilenet_v2": mobilenet_v2}


def planned(network: str, plan: str) -> tuple[fx.GraphModule, list[str]]:
    """A network with folded batch norms, its plan applied.

    Args:
        network: ``small``, ``resnet18`` or ``mobilenet_v2``.
        plan: ``all`` (every parameter), ``centre`` (centre taps behind the cut, and the head), ``last`` (the last
            block's kernels larger than 1x1, all taps, and the head) or ``head``.

    Returns:
        The module, only whose trained parameters require gradients, and their names.
    """
    plain = FACTORIES[network]()
    net = fx.symbolic_trace(fuse(plain) if any(isinstance(m, nn.BatchNorm2d) for m in plain.modules()) else plain)
    trained = [name for name, _ in net.named_parameters()] if plan == "all" else _decouple(net, network, plan)
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name in trained)
    return net.eval(), trained


def _decouple(net: fx.GraphModule, network: str, plan: str) -> list[str]:
    """Replaces the convolutions that are trained at their centre; the names of all that is trained."""
    head = next(reversed([n for n, m in net.named_modules() if isinstance(m, nn.Linear)]))
    trained = [f"{head}.weight", f"{head}.bias"]
    for name in _behind(net, CUTS[network][plan]) if plan != "head" else ():
        module = net.get_submodule(name)
        if not isinstance(module, nn.Conv2d) or module.kernel_size == (1, 1):
            continue
        if plan == "centre":
            net.set_submodule(name, Decoupled(module))
            trained.append(f"{name}.centre.weight")
        else:
            trained.append(f"{name}.weight")
    return trained


def _behind(net: fx.GraphModule, cut: str) -> list[str]:
    called = [str(node.target) for node in net.graph.nodes if node.op == "call_module"]
    last = max(index for index, name in enumerate(called) if f"{name}.".startswith(f"{cut}."))
    return called[last + 1 :]


def _calibrated(factory: Callable[..., nn.Module], shape: tuple[int, ...]) -> nn.Module:
    """Random weights, and batch norms with the statistics of random images, so that activations keep their scale."""
    torch.manual_seed(0)
    net = factory(num_classes=CLASSES)
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        net.train()(torch.randn(32, *shape))
    return net.eval()
