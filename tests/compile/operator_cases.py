"""Every operator of the compiler at one small shape beside what PyTorch makes of the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from pocketstep.compile import operators as op
from pocketstep.compile.signatures import Signature, Spec, Values

Shape = tuple[int, ...]
MAP: Shape = (2, 6, 5, 4)


@dataclass(frozen=True)
class Case:
    """``ours`` and ``theirs`` of tensors of the same shapes; maps are (B, H, W, C) for both."""

    ours: Callable[..., Tensor]
    theirs: Callable[..., Tensor]
    shapes: tuple[Shape, ...] = (MAP,)
    limit: float = 1e-10
    """Largest relative error in double precision."""


def on_maps(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """PyTorch's (B, C, H, W) function for (B, H, W, C)."""
    return lambda *x: op.to_nhwc(function(*(op.to_nchw(each) if each.dim() == 4 else each for each in x)))


def pooling(
    kernel: op.Pair,
    stride: op.Pair,
    padding: op.Pair = (0, 0),
    dilation: op.Pair = (1, 1),
    size: op.Pair = (6, 5),
    *,
    ceil: bool = False,
) -> op.Windows:
    """Windows as PyTorch lays them."""
    count = F.max_pool2d(torch.zeros(1, 1, *size), kernel, stride, padding, dilation, ceil).shape[2:]
    return op.Windows(size, kernel, stride, padding, (count[0], count[1]), dilation)


def _max(*windows: object, ceil: bool = False) -> Case:
    ours = lambda x: op.MaxPool.apply(x, pooling(*windows, ceil=ceil))  # type: ignore[arg-type]  # noqa: E731
    return Case(ours, on_maps(lambda x: F.max_pool2d(x, *windows, ceil_mode=ceil)))  # type: ignore[arg-type]


def _average(
    kernel: op.Pair, stride: op.Pair, padding: op.Pair = (0, 0), *, ceil: bool = False, inside: bool = False
) -> Case:
    windows = pooling(kernel, stride, padding, ceil=ceil)
    return Case(
        lambda x: op.AveragePool.apply(x, windows, not inside, None),
        on_maps(lambda x: F.avg_pool2d(x, kernel, stride, padding, ceil, not inside)),
    )


def _constant(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return op.frozen(lambda: torch.rand(shape, generator=generator, dtype=torch.float64).to(torch.get_default_dtype()))


def _norm(x: Tensor, groups: int) -> Tensor:
    return F.group_norm(x.transpose(1, 2), groups).transpose(1, 2)


def _near_one(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: function(op.Sigmoid.apply(x) + 0.5)


GATE: Shape = (2, 1, 1, 4)
CASES: dict[str, Case] = {
    "relu": Case(lambda x: op.Clip.apply(x, 0.0, None), F.relu),
    "relu6": Case(lambda x: op.Clip.apply(x * 5.0, 0.0, 6.0), lambda x: F.relu6(x * 5.0)),
    "hardtanh": Case(lambda x: op.Clip.apply(x, -0.3, 0.8), lambda x: F.hardtanh(x, -0.3, 0.8)),
    "clamp": Case(lambda x: op.Clip.apply(x, None, 0.8), lambda x: x.clamp(max=0.8)),
    "leaky relu": Case(lambda x: op.LeakyRelu.apply(x, 0.2), lambda x: F.leaky_relu(x, 0.2)),
    "prelu": Case(op.SlopedRelu.apply, on_maps(lambda x, s: F.prelu(x, s)), (MAP, (4,))),
    "hard sigmoid": Case(lambda x: op.HardSigmoid.apply(x * 3.0), lambda x: F.hardsigmoid(x * 3.0), limit=1e-7),
    "hard swish": Case(lambda x: op.HardSwish.apply(x * 3.0), lambda x: F.hardswish(x * 3.0), limit=1e-7),
    "sigmoid": Case(op.Sigmoid.apply, torch.sigmoid),
    "tanh": Case(op.Tanh.apply, torch.tanh),
    "silu": Case(op.Silu.apply, F.silu),
    "gelu": Case(lambda x: op.Gelu.apply(x * 3.0, "none"), lambda x: F.gelu(x * 3.0), limit=1.5e-7),
    "gelu tanh": Case(lambda x: op.Gelu.apply(x, "tanh"), lambda x: F.gelu(x, approximate="tanh")),
    "elu": Case(lambda x: op.Elu.apply(x, 0.7, 1.0, 1.0), lambda x: F.elu(x, 0.7)),
    "selu": Case(lambda x: op.Elu.apply(x, 1.6732632423543772, 1.0507009873554805, 1.0), F.selu),
    "celu": Case(lambda x: op.Elu.apply(x, 1.5, 1.0, 1 / 1.5), lambda x: F.celu(x, 1.5)),
    "softplus": Case(lambda x: op.Softplus.apply(x, 1.5), lambda x: F.softplus(x, 1.5)),
    "mish": Case(op.Mish.apply, F.mish),
    "softmax": Case(op.Softmax.apply, lambda x: F.softmax(x, 3)),
    "absolute": Case(op.Absolute.apply, torch.abs),
    "exponential": Case(op.Exponential.apply, torch.exp),
    "logarithm": Case(_near_one(op.Logarithm.apply), lambda x: torch.log(x.sigmoid() + 0.5)),
    **{
        f"power {p}": Case(_near_one(lambda x, p=p: op.Power.apply(x, p)), lambda x, p=p: (x.sigmoid() + 0.5).pow(p))
        for p in (-2.0, -0.5, 0.5, 1.5, 2.0, 0.3)
    },
    "add": Case(op.Add.apply, torch.add, (MAP, GATE)),
    "subtract": Case(op.Subtract.apply, torch.sub, (MAP, (1, 6, 5, 1))),
    "multiply": Case(op.Multiply.apply, torch.mul, (MAP, GATE)),
    "multiply by a spatial gate": Case(op.Multiply.apply, torch.mul, ((2, 6, 5, 1), MAP)),
    "divide": Case(lambda a, b: op.Divide.apply(a, b + 4.0), lambda a, b: a / (b + 4), (MAP, GATE)),
    "larger": Case(op.Larger.apply, torch.maximum, (MAP, GATE)),
    "sum": Case(lambda x: op.Sum.apply(x, (1, 2), 0.5), lambda x: x.sum((1, 2), keepdim=True) * 0.5),
    "sum apart": Case(lambda x: op.Sum.apply(x, (1, 3), 1.0), lambda x: x.sum((1, 3), keepdim=True)),
    "repeat": Case(lambda x: op.Repeat.apply(x, MAP), lambda x: x.expand(MAP), (GATE,)),
    "repeat few": Case(lambda x: op.Repeat.apply(x, (2, 3, 2, 4)), lambda x: x.expand(2, 3, 2, 4), ((2, 3, 1, 4),)),
    "max pool": _max((2, 2), (2, 2)),
    "max pool 3": _max((3, 3), (2, 2), (1, 1)),
    "max pool same": _max((3, 3), (1, 1), (1, 1)),
    "max pool ceil": _max((3, 2), (2, 2), ceil=True),
    "max pool dilated": _max((2, 3), (1, 2), (1, 1), (2, 1)),
    "max pool apart": _max((2, 1), (3, 2)),
    "largest pixel": Case(lambda x: op.Largest.apply(x, 1, 2, False), on_maps(lambda x: F.adaptive_max_pool2d(x, 1))),
    "largest channel": Case(lambda x: op.Largest.apply(x, 3, 3, True), lambda x: x.amax(3, keepdim=True)),
    "average pool": _average((2, 2), (2, 2)),
    "average pool 3": _average((3, 3), (2, 2), (1, 1)),
    "average pool inside": _average((3, 3), (1, 1), (1, 1), inside=True),
    "average pool ceil": _average((3, 2), (3, 2), ceil=True),
    "pool": Case(op.Pool.apply, lambda x: x.mean((1, 2))),
    "resample": Case(
        lambda x: op.Resample.apply(x, _constant(3, 6), _constant(7, 5)),
        lambda x: torch.einsum("ih,jw,bhwc->bijc", _constant(3, 6), _constant(7, 5), x),
    ),
    "layer norm": Case(lambda x: op.LayerNorm.apply(x, 1e-5), lambda x: F.layer_norm(x, (6,)), ((8, 6),)),
    "group norm": Case(lambda x: op.GroupNorm.apply(x, 2, 1e-5), partial(_norm, groups=2), ((2, 9, 6),)),
    "instance norm": Case(lambda x: op.GroupNorm.apply(x, 6, 1e-5), partial(_norm, groups=6), ((2, 9, 6),)),
    "concatenate": Case(
        lambda *x: op.Concatenate.apply(3, *x, *x), lambda *x: torch.cat([*x, *x], 3), (MAP, (2, 6, 5, 1), MAP)
    ),
    "split": Case(lambda x: op.Multiply.apply(*op.Split.apply(x, 3, [2, 2])), lambda x: x[..., :2] * x[..., 2:]),
    "split unused": Case(lambda x: op.Split.apply(x, 1, [1, 5])[0] * 2.0, lambda x: x[:, :1] * 2),
    "slice": Case(lambda x: op.Slice.apply(x, 1, 1, 5, 1), lambda x: x[:, 1:5]),
    "strided slice": Case(lambda x: op.Slice.apply(x, 2, 1, 5, 2), lambda x: x[:, :, 1:5:2]),
    "pad": Case(lambda x: op.Pad.apply(x, 2, 2, 1, 0.5), lambda x: F.pad(x, (0, 0, 2, 1), value=0.5)),
    "crop": Case(lambda x: op.Pad.apply(x, 3, -1, 1, 0.0), lambda x: F.pad(x, (-1, 1))),
    "batch product": Case(op.BatchProduct.apply, torch.bmm, ((2, 3, 5), (2, 5, 4))),
    "subsample": Case(lambda x: op.Subsample.apply(x, (2, 3)), lambda x: x[:, ::2, ::3]),
    "window": Case(lambda x: op.Window.apply(x, (-1, 1), (6, 6)), lambda x: F.pad(x, (0, 0, -1, 2, 1, -1))),
}


def inputs(name: str, dtype: torch.dtype | None = None) -> list[Tensor]:
    """Leaves of a case's shapes, no two values alike."""
    generator = torch.Generator().manual_seed(len(name))
    dtype = dtype or torch.get_default_dtype()
    return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in CASES[name].shapes]


def there_and_back(function: Callable[..., Tensor], leaves: list[Tensor]) -> list[Tensor]:
    """The value, and the gradient to every input of the sum of its elements, weighed by a fixed tensor each."""
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    with torch.enable_grad():
        y = function(*leaves)
        weights = op.frozen(lambda: torch.linspace(-1, 1, y.numel()).add(0.1).reshape(y.shape))
        gradients = torch.autograd.grad(y, leaves, weights)
    return [y.detach(), *gradients]


def signature(program: str, names: Sequence[str]) -> Signature:
    """One program that runs all these operators forward and backward."""
    specs = [Spec(f"{name}.{i}", s, "batch", "") for name in names for i, s in enumerate(CASES[name].shapes)]
    shapes = {name: [r.shape for r in there_and_back(CASES[name].theirs, inputs(name))] for name in names}
    outputs = [Spec(f"{n}.out.{i}", tuple(s), "result", "") for n, all_ in shapes.items() for i, s in enumerate(all_)]

    def function(v: Values) -> dict[str, Tensor]:
        result: dict[str, Tensor] = {}
        for name in names:
            leaves = [v[f"{name}.{i}"] for i in range(len(CASES[name].shapes))]
            for i, value in enumerate(there_and_back(CASES[name].ours, leaves)):
                result[f"{name}.out.{i}"] = value
        return result

    return Signature(program, 1, tuple(specs), tuple(outputs), function)
