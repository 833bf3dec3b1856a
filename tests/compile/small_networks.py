"""Tiny networks for the compiler's tests, and how close two tensors are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pocketstep.compile.sharing import compact_convolutions
from pocketstep.compile.signatures import LearningModel, Quantisation
from pocketstep.compile.trace import trace
from pocketstep.compile.walk import Kernels, Walk
from pocketstep.networks import ResidualNet
from pocketstep.plan import Preset, make_plan

SIZE = 8
CLASSES, SLOTS = 3, 5

torch.manual_seed(0)  # networks are built while tests are collected


def relative_error(value: Tensor, expected: Tensor) -> float:
    """max |value - expected| / max |expected|; shapes must agree."""
    assert value.shape == expected.shape
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    difference = float((value - expected).abs().max()) if expected.numel() else 0.0
    return difference / scale if scale > 0 else difference


def assert_close(value: Tensor, expected: Tensor, what: str, limit: float) -> None:
    error = relative_error(value, expected)
    assert error <= limit, f"{what}: largest relative error {error:.2e}, limit {limit:.0e}"


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """In eval mode, with running statistics and affine parameters of every batch norm far from the initial."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            if module.affine:
                nn.init.normal_(module.weight, 1, 0.3, generator=generator)
                nn.init.normal_(module.bias, 0, 0.3, generator=generator)
    return model.eval()


def residual_net(blocks: int = 1) -> ResidualNet:
    net = ResidualNet(CLASSES, 1, (4, 6), blocks, seed=1)
    randomised(net)
    return net


class Head(nn.Module):
    """A body, global average pooling and a linear layer."""

    def __init__(self, *body: nn.Module, channels: int = 4) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)
        self.head = nn.Linear(channels, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x).mean((2, 3)))
        return logits


def conv(inputs: int = 4, outputs: int = 4, kernel: int = 3, **options: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=options.pop("padding", kernel // 2), **options)


def learning_model(
    net: nn.Module, preset: Preset, cut: str | None, cells: int = 2, allowance: float = 9.0, *,
    expansion: int = 0, directions: int = 0, mirrored: bool = False, **how: Any,
) -> LearningModel:  # fmt: skip
    """The compiler's model of a one-channel network with spare slots and a made-up origin."""
    network = trace(net, (1, SIZE, SIZE))
    plan = make_plan(network, preset, SLOTS, cut, **how)
    kernels = Kernels(compact=compact_convolutions(network, plan, 6, allowance))
    images = torch.randn(16, SIZE, SIZE, 1, generator=torch.Generator().manual_seed(0))
    latent = Walk(network, plan, Kernels(), {}).prefix(images).detach()
    shape = (latent.shape[1] * (2 if mirrored else 1), latent.shape[2], latent.shape[3])
    quantisation = Quantisation.of(latent)
    model = LearningModel(
        network, plan, quantisation, (0.4,), (0.3,), (SIZE, SIZE, 1), shape, (cells, cells), torch.zeros(()),
        kernels=kernels, expansion=expansion, mirrored=mirrored,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    origin = torch.randn(model.joined_size, generator=generator) * 0.1
    if not directions:
        return replace(model, origin=origin)
    axes, _ = torch.linalg.qr(torch.randn(model.joined_size, directions, generator=generator))
    return replace(model, origin=origin, directions=axes.T.contiguous())
