"""Networks of torchvision and timm, traced, cut and trained through, against PyTorch's autograd.

Every gradient in double precision, because near a kink of a ReLU a rounding error of float32 is a finite difference of
gradients, and the deepest of these networks have a million of them; in float32 what lies behind the cut that is found.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
import torchvision
from delegable import outside
from small_networks import assert_close, relative_error
from torch import Tensor, nn
from zoo import CLASSES, QUICK, SLOW, settled

from pocketstep.compile import training
from pocketstep.compile.graph import Network, module_path
from pocketstep.compile.lower import lower
from pocketstep.compile.options import StepOptions
from pocketstep.compile.oracle import Oracle
from pocketstep.compile.signatures import LearningModel, Quantisation
from pocketstep.compile.trace import trace
from pocketstep.compile.walk import Kernels, Walk, initial_state
from pocketstep.plan import make_plan
from pocketstep_device.errors import InputError

EXACT, SINGLE = 1e-6, 1e-3
BATCH, SLOTS, SEEDS = 2, 7, 4
OPTIONS = StepOptions(losses=("labels",))


@pytest.fixture(autouse=True)
def _restored_precision() -> Iterator[None]:
    before = torch.get_default_dtype()
    yield
    torch.set_default_dtype(before)


def in_double_precision(network: Network) -> Network:
    """The same graph; new constants follow the default type."""
    torch.set_default_dtype(torch.float64)
    constants = {k: v.double() if v.is_floating_point() else v for k, v in network.constants.items()}
    return replace(network, constants=constants)


def learning_model(network: Network, side: int, cut: str | None, seed: int = 3) -> tuple[LearningModel, Tensor]:
    """And the latents of a batch of noise, which the walk and the network itself agree about."""
    plan = make_plan(network, "centre", SLOTS, cut)
    images = torch.randn(BATCH, 3, side, side, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        latent = Walk(network, plan, Kernels(), {}).prefix(images.permute(0, 2, 3, 1))
        expected = network.run(images)[plan.cut]
    assert_close(latent.permute(0, 3, 1, 2), expected, "latent", SINGLE if latent.dtype == torch.float32 else EXACT)
    shape, size = (latent.shape[1], latent.shape[2], latent.shape[3]), (side, side, 3)
    codes = Quantisation(1.0, 0.0)
    model = LearningModel(network, plan, codes, (0.0,) * 3, (1.0,) * 3, size, shape, 1, torch.zeros(()))
    return model, latent.contiguous()


def inputs_of_step(model: LearningModel, latent: Tensor) -> dict[str, Tensor]:
    """Without momentum and decay, so that the new momentum is the gradient."""
    labels = torch.eye(SLOTS)[torch.arange(BATCH) % CLASSES]
    state = {**initial_state(model.network, model.plan), "latents": latent, "labels": labels}

    def value(name: str, shape: tuple[int, ...]) -> Tensor:
        zero = name in ("momentum", "weight_decay") or name.startswith("momentum.")
        return state[name] if name in state else torch.full(shape, float(not zero))

    return {spec.name: value(spec.name, spec.shape) for spec in training.step(model, BATCH, OPTIONS).inputs}


def compare(network: Network, side: int, cut: str | None, seed: int = 3) -> tuple[float, str]:
    """The largest relative error of loss, logits and every gradient; and what it is, for people."""
    model, latent = learning_model(network, side, cut, seed)
    given = inputs_of_step(model, latent)
    outputs = training.step(model, BATCH, OPTIONS).function(given)
    oracle = Oracle(model, OPTIONS)
    expected = oracle.step(given)
    with torch.no_grad():
        walk = Walk(model.network, model.plan, model.kernels, given)
        logits, theirs = model.suffix(walk, latent)[0], oracle.forward(given, given)[0]
    errors = {"logits": relative_error(logits, theirs)}
    for name in ("loss", *(f"momentum.{p.trained}" for p in model.plan.trained)):
        assert expected[name].abs().max() > 0, f"{name} is zero, which shows nothing"
        errors[name] = relative_error(outputs[name], expected[name].detach())
    worst = max(errors, key=lambda name: errors[name])
    where = module_path(model.plan.cut)
    return errors[worst], f"cut after '{where}', {len(model.plan.trained)} tensors, worst {errors[worst]:.1e} ({worst})"


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_every_gradient_of(name: str) -> None:
    case = {**QUICK, **SLOW}[name]
    net = case.build()
    network = trace(net, (3, case.side, case.side))
    images = torch.randn(BATCH, 3, case.side, case.side, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        assert relative_error(network.run(images)[network.output], net(images)) < 1e-2  # folding is the same network
    for seed in range(SEEDS):  # a rounding error that turns a ReLU round is an accident; a wrong gradient is not
        error, found = compare(network, case.side, None, seed)
        print(f"{name}, float32: {found}")
        if error <= SINGLE:
            break
    assert error <= SINGLE, found
    exact = in_double_precision(network)
    for cut in case.cuts:
        error, found = compare(exact, case.side, cut)
        print(f"{name}, float64: {found}")
        assert error <= EXACT, found


@pytest.mark.parametrize(
    ("name", "cut"),
    [
        ("squeezenet1_1", "features.7"),
        ("shufflenet_v2_x0_5", "stage4.1"),
        ("mobilenet_v3_small", "features.9"),
        ("test_convnext2", "stages.1"),
        ("test_nfnet", "stages.2"),
        ("test_efficientnet_gn", "blocks.3"),
        pytest.param("vgg11", "features.0", marks=pytest.mark.slow),
        pytest.param("resnet18", "conv1", marks=pytest.mark.slow),
        pytest.param("mixnet_s", "blocks.3", marks=pytest.mark.slow),
        pytest.param("densenet121", "features.transition2", marks=pytest.mark.slow),
        pytest.param("googlenet", "inception4a", marks=pytest.mark.slow),
        pytest.param("hrnet_w18_small", "conv1", marks=pytest.mark.slow),
        pytest.param("efficientvit_b0", "stem", marks=pytest.mark.slow),
    ],
)
def test_compiled_step_stays_inside_the_delegates(name: str, cut: str) -> None:
    """Also gives what it gave before it was lowered."""
    case = {**QUICK, **SLOW}[name]
    network = trace(case.build(), (3, case.side, case.side))
    model, latent = learning_model(network, case.side, cut)
    step, given = training.step(model, BATCH, OPTIONS), inputs_of_step(model, latent)
    graph = lower(step)
    assert outside(graph) == []
    outputs = graph.exported.module()(*[given[spec.name] for spec in step.inputs])
    expected = step.function(given)
    for spec, output in zip(step.outputs, outputs, strict=True):
        assert_close(output, expected[spec.name], spec.name, SINGLE)


class Warped(nn.Module):
    """Something that no rule is for."""

    def forward(self, x: Tensor) -> Tensor:
        grid = F.affine_grid(torch.tensor([[[1.0, 0.1, 0], [0, 1, 0]]]).expand(len(x), 2, 3), list(x.shape))
        return F.grid_sample(x, grid, align_corners=False)


def test_a_real_network_with_an_operator_without_rule() -> None:
    """It is fine before the cut; behind it the error names module, operator and a later cut, which works."""
    torch.manual_seed(0)
    net = torchvision.models.resnet18(num_classes=CLASSES)
    net.layer3 = nn.Sequential(*net.layer3, Warped())
    network = trace(settled(net, 64), (3, 64, 64))
    model, latent = learning_model(network, 64, "layer2")
    with pytest.raises(InputError, match=r"module 'layer3\.2' uses aten\.\S+, which has no backward") as error:
        training.step(model, BATCH, OPTIONS).function(inputs_of_step(model, latent))
    later = str(error.value).split("cut after '")[1].split("'")[0]
    assert later == "layer3.2"
    error, found = compare(network, 64, later)
    assert error <= SINGLE, found
