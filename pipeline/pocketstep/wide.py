"""Wide residual networks with pre-activation (Zagoruyko and Komodakis 2016), the paper's teachers on CIFAR."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pocketstep_device.errors import InputError

_STEM = 16


class WideBlock(nn.Module):
    """Two 3x3 convolutions, each behind batch norm and ReLU, around a shortcut.

    The shortcut is the identity, or a 1x1 convolution of the activated input where width or stride change.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.projected = stride != 1 or inputs != outputs
        self.bn1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if self.projected else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Maps float (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        active = self.relu1(self.bn1(x))
        inner = self.conv2(self.relu2(self.bn2(self.conv1(active))))
        joined: Tensor = inner + self.shortcut(active if self.projected else x)
        return joined


class WideResNet(nn.Module):
    """WRN-depth-widen: stem of 16 channels, three groups of 16, 32 and 64 times ``widen``, linear head.

    Modules: ``stem`` (convolution), ``group1`` .. ``group3`` (``nn.Sequential`` of ``WideBlock``), ``bn``, ``relu``,
    ``head``.

    Args:
        classes: Width of the head.
        in_channels: Channels of the images.
        depth: 6 n + 4, for n blocks a group.
        widen: The widening factor; need not be whole.
        seed: Of the initial weights; the global random state is left as it was.

    Raises:
        InputError: If the depth is not 6 n + 4, or a number is not positive.
    """

    def __init__(self, classes: int, in_channels: int = 3, depth: int = 16, widen: float = 4, *, seed: int = 0) -> None:
        blocks, rest = divmod(depth - 4, 6)
        if blocks < 1 or rest or min(classes, in_channels) < 1 or round(16 * widen) < 1:
            raise InputError(
                f"cannot build WRN-{depth}-{widen:g} for {classes} classes and {in_channels} channels: depth is "
                "6 n + 4 (10, 16, 22, 28, ...), and the others are positive"
            )
        super().__init__()
        widths = [_STEM, *(round(16 * widen) * 2**index for index in range(3))]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.stem = nn.Conv2d(in_channels, _STEM, 3, padding=1, bias=False)
            for index in range(3):
                inputs, outputs, stride = widths[index], widths[index + 1], 1 if index == 0 else 2
                first = WideBlock(inputs, outputs, stride)
                rests = (WideBlock(outputs, outputs, 1) for _ in range(blocks - 1))
                self.add_module(f"group{index + 1}", nn.Sequential(first, *rests))
            self.bn, self.relu = nn.BatchNorm2d(widths[-1]), nn.ReLU()
            self.head = nn.Linear(widths[-1], classes)
            for module in self.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of normalised float images (N, in_channels, H, W)."""
        maps = self.stem(images)
        for name in ("group1", "group2", "group3"):
            maps = self.get_submodule(name)(maps)
        logits: Tensor = self.head(self.relu(self.bn(maps)).mean((2, 3)))
        return logits
