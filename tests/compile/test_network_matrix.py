"""Networks of torchvision and timm, traced, cut and trained through, against PyTorch's autograd in double precision.

Double precision, because near a kink of a ReLU a rounding error of float32 is a finite difference of gradients, and the
deepest of these networks have a million of them; what runtimes make of float32 is the golden trace's to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import timm
import torch
import torchvision
from small_networks import relative_error
from torch import Tensor, nn

from pocketstep.compile import training
from pocketstep.compile.options import StepOptions
from pocketstep.compile.oracle import Oracle
from pocketstep.compile.signatures import LearningModel, Quantisation
from pocketstep.compile.trace import module_path, trace
from pocketstep.compile.walk import Kernels, Walk, initial_state
from pocketstep.networks import ResidualNet
from pocketstep.plan import make_plan

LIMIT = 1e-6
BATCH, CLASSES, SLOTS = 2, 5, 7
OPTIONS = StepOptions(losses=("labels",))


@pytest.fixture(scope="module", autouse=True)
def _double_precision() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@dataclass(frozen=True)
class Case:
    """A network, the side of its images, and cuts to try; None is the one that is found."""

    make: Callable[[], nn.Module]
    side: int
    cuts: tuple[str | None, ...] = (None,)


def vision(name: str, side: int, *cuts: str, **options: bool) -> Case:
    make = lambda: getattr(torchvision.models, name)(weights=None, num_classes=CLASSES, **options)  # noqa: E731
    return Case(make, side, (None, *cuts))


def from_timm(name: str, side: int = 64, *cuts: str) -> Case:
    return Case(lambda: timm.create_model(name, num_classes=CLASSES), side, (None, *cuts))


def wide(widths: tuple[int, ...], blocks: int) -> Case:
    return Case(lambda: ResidualNet(CLASSES, 3, widths, blocks, seed=0), 32, (None, "stem"))


QUICK = {
    "resnet18": vision("resnet18", 64, "conv1"),
    "wrn_16_2": wide((32, 64, 128), 2),
    "vgg11": vision("vgg11", 32, "features.0"),
    "vgg11_bn": vision("vgg11_bn", 32, "features.0"),
    "alexnet": vision("alexnet", 64, "features.0"),
    "mobilenet_v2": vision("mobilenet_v2", 64, "features.0"),
    "mobilenet_v3_small": vision("mobilenet_v3_small", 64, "features.0"),
    "squeezenet1_1": vision("squeezenet1_1", 64, "features.0"),
    "shufflenet_v2_x0_5": vision("shufflenet_v2_x0_5", 64, "conv1"),
    "regnet_y_400mf": vision("regnet_y_400mf", 64),
    "convnext_tiny": vision("convnext_tiny", 64, "features.0"),
    "ghostnet_100": from_timm("ghostnet_100"),
    "repvgg_a0": from_timm("repvgg_a0"),
}
SLOW = {
    "resnet34": vision("resnet34", 64, "conv1"),
    "wrn_28_10": wide((160, 320, 640), 4),
    "vgg16": vision("vgg16", 32, "features.0"),
    "vgg16_bn": vision("vgg16_bn", 32, "features.0"),
    "efficientnet_b0": vision("efficientnet_b0", 64, "features.0"),
    "densenet121": vision("densenet121", 64, "features.pool0"),
    "shufflenet_v2_x1_0": vision("shufflenet_v2_x1_0", 64, "conv1"),
    "googlenet": vision("googlenet", 64, "conv1", aux_logits=False, init_weights=False),
    "mnasnet1_0": vision("mnasnet1_0", 64, "layers.0"),
    "resnet26d": from_timm("resnet26d"),
    "hardcorenas_a": from_timm("hardcorenas_a"),
    "tf_efficientnet_lite0": from_timm("tf_efficientnet_lite0"),
    "fbnetc_100": from_timm("fbnetc_100"),
    "dla34": from_timm("dla34"),
    "regnetx_002": from_timm("regnetx_002"),
    "convnext_atto": from_timm("convnext_atto"),
    "mobileone_s0": from_timm("mobileone_s0"),
    "mixnet_s": from_timm("mixnet_s"),
    "lcnet_050": from_timm("lcnet_050"),
    "res2net50_26w_4s": from_timm("res2net50_26w_4s"),
}


def settled(net: nn.Module, side: int) -> nn.Module:
    """In evaluation mode, its batch norms' statistics those of one noisy batch and layer scales not near zero."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in net.named_parameters():
        if name.rsplit(".", 1)[-1] in ("gamma", "layer_scale"):
            nn.init.uniform_(parameter, 0.3, 0.8, generator=generator)
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        if norm.affine:
            nn.init.normal_(norm.weight, 1, 0.2, generator=generator)
            nn.init.normal_(norm.bias, 0, 0.2, generator=generator)
    if norms:
        net.train()
        with torch.no_grad():
            net(torch.randn(8, 3, side, side, generator=generator))
    return net.eval()


def compare(net: nn.Module, case: Case, cut: str | None) -> tuple[str, int, float]:
    """The cut, how many tensors are trained, and the largest relative error of latent, loss and every gradient."""
    network = trace(net, (3, case.side, case.side))
    plan = make_plan(network, "centre", SLOTS, cut)
    images = torch.randn(BATCH, 3, case.side, case.side, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        latent = Walk(network, plan, Kernels(), {}).prefix(images.permute(0, 2, 3, 1))
        values = network.run(images)
        assert relative_error(values[network.output], net(images)) < 1e-6
    shape = (latent.shape[1], latent.shape[2], latent.shape[3])
    size = (case.side, case.side, 3)
    model = LearningModel(
        network, plan, Quantisation(1.0, 0.0), (0.0,) * 3, (1.0,) * 3, size, shape, 1, torch.zeros(())
    )
    step, state = training.step(model, BATCH, OPTIONS), initial_state(network, plan)
    labels = torch.eye(SLOTS)[torch.arange(BATCH) % CLASSES]
    known = {**state, "latents": latent, "labels": labels, "learning_rate": torch.tensor([0.1])}
    zero = ("momentum", "weight_decay", *(s.name for s in step.inputs if s.name.startswith("momentum.")))

    def value(name: str, shape: tuple[int, ...]) -> Tensor:
        return known[name] if name in known else torch.zeros(shape) if name in zero else torch.ones(shape)

    given = {s.name: value(s.name, s.shape) for s in step.inputs}
    outputs, expected = step.function(given), Oracle(model, OPTIONS).step(given)
    momenta = {f"momentum.{name}" for name in state}  # without momentum and decay these are the gradients
    assert any(expected[name].abs().max() > 0 for name in momenta)
    errors = [relative_error(outputs[name], expected[name].detach()) for name in (*momenta, "loss")]
    errors.append(relative_error(latent.permute(0, 3, 1, 2), values[plan.cut]))
    return module_path(plan.cut), len(state), max(errors)


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_every_gradient_of(name: str) -> None:
    case = {**QUICK, **SLOW}[name]
    torch.manual_seed(0)
    net = settled(case.make(), case.side)
    for cut in case.cuts:
        where, trained, error = compare(net, case, cut)
        print(f"{name}, cut after '{where}', {trained} tensors: largest relative error {error:.1e}")
        assert error <= LIMIT, where
