"""Networks with a branch for every form of every rule; each branch begins with a convolution that is trained.

A branch whose gradient is wrong has a wrong gradient at the convolution of its name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from small_networks import CLASSES, conv, randomised
from torch import Tensor, nn

CHANNELS, SIDE = 6, 6
Function = Callable[[Any, Tensor], Tensor]


class LayerNorm2d(nn.LayerNorm):
    """Of the channels of a map, as ConvNeXt has it."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Branches(nn.Module):
    """first (the cut), then a convolution and a function of its output for every branch, and one head for all."""

    def __init__(self, branches: dict[str, Function], **modules: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.functions = branches
        for name, module in modules.items():
            setattr(self, name, module)
        self.first = nn.Sequential(conv(1, CHANNELS), nn.ReLU())
        self.convolutions = nn.ModuleDict({name: conv(CHANNELS, CHANNELS) for name in branches})
        example = torch.zeros(2, 1, SIDE, SIDE)
        self.head = nn.Linear(self.features(example).shape[1], CLASSES)

    def features(self, x: Tensor) -> Tensor:
        x = self.first(x)
        outputs = [function(self, self.convolutions[name](x)) for name, function in self.functions.items()]
        return torch.cat([self.weighted(y) for y in outputs], 1)

    def weighted(self, y: Tensor) -> Tensor:
        """Every element counts differently, so that none can be mistaken for another."""
        flat = y.flatten(1)
        weights = torch.arange(1.0, flat.shape[1] + 1).mul(2.4).cos()
        return torch.stack([(flat * weights).mean(1), (flat * weights.flip(0)).mean(1)], 1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x))
        return logits


def near_one(x: Tensor) -> Tensor:
    """Positive values, where roots and logarithms are at ease."""
    return x.sigmoid() + 0.5


ACTIVATIONS: dict[str, Function] = {
    "relu": lambda m, x: F.relu(x),
    "relu6": lambda m, x: F.relu6(x * 9),
    "hardtanh": lambda m, x: F.hardtanh(x * 2, -0.3, 0.8),
    "leaky_relu": lambda m, x: F.leaky_relu(x, 0.2),
    "prelu": lambda m, x: m.slopes(x),
    "prelu_one": lambda m, x: m.slope(x),
    "hardswish": lambda m, x: F.hardswish(x * 4),
    "hardsigmoid": lambda m, x: F.hardsigmoid(x * 4),
    "silu": lambda m, x: F.silu(x * 3),
    "sigmoid": lambda m, x: F.sigmoid(x * 3),
    "tanh": lambda m, x: F.tanh(x * 2),
    "gelu": lambda m, x: F.gelu(x * 3),
    "gelu_tanh": lambda m, x: F.gelu(x * 3, approximate="tanh"),
    "elu": lambda m, x: F.elu(x * 2, 0.7),
    "selu": lambda m, x: F.selu(x),
    "celu": lambda m, x: F.celu(x, 1.5),
    "softplus": lambda m, x: F.softplus(x * 3, 1.5),
    "mish": lambda m, x: F.mish(x * 3),
    "softsign": lambda m, x: F.softsign(x * 3),
    "clamp": lambda m, x: x.clamp(-0.2, 0.3),
    "clamp_min": lambda m, x: x.clamp(min=-0.1),
    "clamp_max": lambda m, x: x.clamp(max=0.1),
    "softmax": lambda m, x: F.softmax(x * 3, 1),
    "softmax_last": lambda m, x: F.softmax(x * 3, 3),
    "glu": lambda m, x: F.glu(x, 1),
}

ARITHMETIC: dict[str, Function] = {
    "residual": lambda m, x: x + F.relu(x),
    "alpha": lambda m, x: torch.add(x, F.relu(x), alpha=2.5),
    "numbers": lambda m, x: (1 - x) / 3 + 0.5 * x - 2,
    "difference": lambda m, x: F.relu(x) - x * x,
    "gate": lambda m, x: x * x.mean((2, 3), keepdim=True).sigmoid(),
    "spatial_gate": lambda m, x: x * x.mean(1, keepdim=True).sigmoid(),
    "outer": lambda m, x: x.mean(2, keepdim=True) + x.mean(3, keepdim=True),
    "quotient": lambda m, x: x / near_one(x.mean(1, keepdim=True)),
    "inverse": lambda m, x: 2 / near_one(x),
    "reciprocal": lambda m, x: near_one(x).reciprocal(),
    "by_channel": lambda m, x: x * m.channel.view(1, -1, 1, 1) - m.channel.view(-1, 1, 1),
    "by_pixel": lambda m, x: x * m.pixel + m.pixel,
    "by_element": lambda m, x: x / (m.element + 2),
    "maximum": lambda m, x: torch.maximum(x, x * -0.5),
    "minimum": lambda m, x: torch.minimum(x, x.mean((2, 3), keepdim=True)),
    "powers": lambda m, x: x.pow(2) + near_one(x).pow(0.5) + near_one(x).pow(1.5) + near_one(x).pow(0.3),
    "negative_powers": lambda m, x: near_one(x).pow(-2) + near_one(x).rsqrt(),
    "exp_log": lambda m, x: near_one(x).log() + x.exp() + near_one(x).sqrt() + x.abs(),
    "negative": lambda m, x: -x,
    "batch_norm": lambda m, x: m.norm(F.relu(x)),
}

POOLING: dict[str, Function] = {
    "max": lambda m, x: F.max_pool2d(x, 2),
    "max_overlapping": lambda m, x: F.max_pool2d(x, 3, 2, 1),
    "max_same": lambda m, x: F.max_pool2d(x, (1, 3), 1, (0, 1)),
    "max_ceil": lambda m, x: F.max_pool2d(x, (3, 1), (2, 1), 0, ceil_mode=True),
    "max_dilated": lambda m, x: F.max_pool2d(x, (2, 3), (1, 2), 1, (2, 1)),
    "max_apart": lambda m, x: F.max_pool2d(x, 2, 3),
    "max_one_pixel": lambda m, x: F.max_pool2d(x, 1, 2),
    "max_adaptive": lambda m, x: F.adaptive_max_pool2d(x, 1),
    "max_adaptive_grid": lambda m, x: F.adaptive_max_pool2d(x, (3, 2)),
    "amax": lambda m, x: x.amax((2, 3)),
    "amax_channels": lambda m, x: x.amax(1, keepdim=True),
    "amax_apart": lambda m, x: x.amax((1, 2)),
    "max_dim": lambda m, x: x.max(1).values,
    "average": lambda m, x: F.avg_pool2d(x, 2),
    "average_overlapping": lambda m, x: F.avg_pool2d(x, 3, 2, 1),
    "average_without_padding": lambda m, x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False),
    "average_ceil": lambda m, x: F.avg_pool2d(x, (4, 3), (4, 2), ceil_mode=True),
    "average_ceil_padded": lambda m, x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
    "average_divisor": lambda m, x: F.avg_pool2d(x, 2, 1, divisor_override=3),
    "average_one_pixel": lambda m, x: F.avg_pool2d(x, 1, 2),
    "adaptive_one": lambda m, x: F.adaptive_avg_pool2d(x, 1),
    "adaptive_grid": lambda m, x: F.adaptive_avg_pool2d(x, (3, 2)),
    "adaptive_uneven": lambda m, x: F.adaptive_avg_pool2d(x, (4, 5)),
    "adaptive_larger": lambda m, x: F.adaptive_avg_pool2d(x, 7),
    "mean_flat": lambda m, x: x.mean((2, 3)),
    "mean_channels": lambda m, x: x.mean(1),
    "mean_one_by_one": lambda m, x: x.mean(3).mean(1),
    "sum": lambda m, x: x.sum((1, 3)),
    "variance": lambda m, x: x.var((2, 3), keepdim=True) + x.var(1, unbiased=False).unsqueeze(1),
    "normalised": lambda m, x: F.normalize(x, dim=1),
}

SHAPES: dict[str, Function] = {
    "flatten": lambda m, x: F.relu(x).flatten(1) * 2,
    "flatten_pixels": lambda m, x: m.pixels(x.flatten(2)).transpose(1, 2),
    "one_pixel": lambda m, x: F.relu(x.mean((2, 3), keepdim=True).flatten(1)).view(-1, 2, 3),
    "shuffle": lambda m, x: x.view(x.shape[0], 2, 3, SIDE, SIDE).transpose(1, 2).flatten(1, 2) * x,
    "pixel_shuffle": lambda m, x: F.pixel_shuffle(x[:, :4], 2),
    "pixel_unshuffle": lambda m, x: F.pixel_unshuffle(x, 2),
    "permuted_gate": lambda m, x: (x.permute(0, 2, 3, 1) * x.mean((2, 3))[:, None, None]).permute(0, 3, 1, 2),
    "channels_last": lambda m, x: m.wide(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
    "turned": lambda m, x: x.transpose(2, 3) + x,
    "squeeze": lambda m, x: x.mean(2, keepdim=True).squeeze(2).unsqueeze(-1) * x.mean(3, keepdim=True),
    "expand": lambda m, x: x.mean((2, 3), keepdim=True).expand(-1, -1, 2, 3) * 1.5,
    "repeat": lambda m, x: x.repeat(1, 2, 1, 1),
    "cat": lambda m, x: torch.cat([x, F.relu(x), x * x], 1),
    "cat_many": lambda m, x: torch.cat([x * k for k in range(1, 8)], 1),
    "cat_pixels": lambda m, x: torch.cat([x, m.corner.expand(len(x), -1, -1, -1), F.relu(x)], 3),
    "stack": lambda m, x: torch.stack([x, F.relu(x)], 1).mean(1),
    "chunk": lambda m, x: torch.cat(x.chunk(2, 1)[::-1], 1) * x,
    "split_unused": lambda m, x: x.split([1, 2, 3], 1)[1],
    "split_rows": lambda m, x: x.split(3, 2)[0] * x.split(3, 2)[1],
    "slice": lambda m, x: x[:, 1:5, :, 2:],
    "strided_slice": lambda m, x: x[:, :, ::2, 1::2],
    "focus": lambda m, x: torch.cat([x[..., ::2, ::2], x[..., 1::2, 1::2]], 1),
    "select": lambda m, x: x[:, 3] + x[:, -1],
    "pad": lambda m, x: F.pad(x, (0, 1, 2, 0), value=0.5),
    "pad_channels": lambda m, x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 2)),
    "crop": lambda m, x: F.pad(x, (-1, 0, 1, -2)),
    "dropout": lambda m, x: F.dropout(x, training=m.training),
}

NORMALISATION: dict[str, Function] = {
    "layer_norm": lambda m, x: m.layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
    "layer_norm_map": lambda m, x: m.layer_map(x),
    "layer_norm_all": lambda m, x: F.layer_norm(x, x.shape[1:]),
    "layer_norm_flat": lambda m, x: F.layer_norm(x.mean((2, 3)), (CHANNELS,)),
    "group_norm": lambda m, x: m.group(x),
    "group_norm_one": lambda m, x: F.group_norm(x, 1),
    "instance_norm": lambda m, x: m.instance(x),
    "instance_norm_running": lambda m, x: m.running(x),
    "rms_norm": lambda m, x: F.rms_norm(x, (SIDE,)),
    "standardised": lambda m, x: (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True),
}

RESAMPLING: dict[str, Function] = {
    "nearest": lambda m, x: F.interpolate(x, scale_factor=2),
    "nearest_exact": lambda m, x: F.interpolate(x, size=(4, 9), mode="nearest-exact"),
    "bilinear": lambda m, x: F.interpolate(x, scale_factor=1.5, mode="bilinear"),
    "bilinear_aligned": lambda m, x: F.interpolate(x, size=(9, 4), mode="bilinear", align_corners=True),
    "bicubic": lambda m, x: F.interpolate(x, scale_factor=2, mode="bicubic"),
    "smoothed": lambda m, x: F.interpolate(x, size=(4, 3), mode="bilinear", antialias=True),
    "smoothed_cubic": lambda m, x: F.interpolate(x, size=(3, 4), mode="bicubic", antialias=True),
    "reflect": lambda m, x: F.pad(x, (1, 2, 0, 3), mode="reflect"),
    "replicate": lambda m, x: F.pad(x, (1, 0, 2, 1), mode="replicate"),
}

LINEAR: dict[str, Function] = {
    "hidden": lambda m, x: F.relu(m.hidden(x.mean((2, 3)))),
    "no_bias": lambda m, x: m.plain(x.mean((2, 3))),
    "matrix": lambda m, x: x.mean((2, 3)) @ m.matrix,
    "channels_last": lambda m, x: m.hidden(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
    "attention": lambda m, x: torch.bmm(F.softmax(torch.bmm(x.flatten(2).mT, x.flatten(2)), 2), x.flatten(2).mT),
    "scaled_attention": lambda m, x: F.scaled_dot_product_attention(*[x.flatten(2).unsqueeze(1)] * 3),
    "gram": lambda m, x: torch.einsum("bchw,bdhw->bcd", x, x),
    "sequence": lambda m, x: x * m.sequence(x.mean((2, 3)).unsqueeze(1)).sigmoid().view(-1, CHANNELS, 1, 1),
    "strided": lambda m, x: m.strided(x),
    "depthwise": lambda m, x: m.depthwise(x),
    "grouped": lambda m, x: m.grouped(x),
}


def _parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.rand(shape, generator=torch.Generator().manual_seed(7)) + 0.5)


def networks() -> dict[str, nn.Module]:
    """By name; weights are the same in every run."""
    torch.manual_seed(1)
    made = {
        "activations": Branches(ACTIVATIONS, slopes=nn.PReLU(CHANNELS), slope=nn.PReLU()),
        "arithmetic": Branches(
            ARITHMETIC,
            channel=_parameter(CHANNELS),
            pixel=_parameter(SIDE, SIDE),
            element=_parameter(CHANNELS, SIDE, SIDE),
            norm=nn.BatchNorm2d(CHANNELS),
        ),
        "pooling": Branches(POOLING),
        "shapes": Branches(
            SHAPES,
            pixels=nn.Linear(SIDE * SIDE, 5),
            wide=nn.Linear(CHANNELS, 8),
            corner=_parameter(1, CHANNELS, SIDE, 2),
        ),
        "normalisation": Branches(
            NORMALISATION,
            layer=nn.LayerNorm(CHANNELS),
            layer_map=LayerNorm2d(CHANNELS),
            group=nn.GroupNorm(3, CHANNELS),
            instance=nn.InstanceNorm2d(CHANNELS, affine=True),
            running=nn.InstanceNorm2d(CHANNELS, affine=True, track_running_stats=True),
        ),
        "resampling": Branches(RESAMPLING),
        "linear": Branches(
            LINEAR,
            hidden=nn.Linear(CHANNELS, 8),
            plain=nn.Linear(CHANNELS, 8, bias=False),
            matrix=_parameter(CHANNELS, 4),
            sequence=nn.Conv1d(1, 1, 3, padding=1),
            strided=conv(CHANNELS, 4, stride=2),
            depthwise=conv(CHANNELS, CHANNELS, groups=CHANNELS),
            grouped=conv(CHANNELS, 4, groups=2),
        ),
    }
    return {name: randomised(net) for name, net in made.items()}
