"""The cost model: by hand on small networks, and against PyTorch's own counter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pocketstep.compile.cost import Cost, cost
from pocketstep.compile.graph import EXAMPLE_BATCH, Network
from pocketstep.compile.trace import trace
from pocketstep.networks import ResidualNet
from pocketstep.plan import Plan, Preset, make_plan
from pocketstep_device.decoding import decode

CLASSES, SLOTS = 3, 5


def conv(inputs: int = 4, outputs: int = 4, kernel: int = 3, **options: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=options.pop("padding", kernel // 2), **options)


def planned(net: nn.Module, preset: Preset, cut: str, slots: int = CLASSES) -> tuple[Network, Plan]:
    network = trace(net, (1, 8, 8))
    return network, make_plan(network, preset, slots, cut)


class Chain(nn.Module):
    """On 8 x 8 pixels: stem 1 -> 2; a 2 -> 4 with stride 2; b 4 -> 4 depthwise; c 4 -> 6 with a 1x1 kernel; head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(1, 2)
        self.a = conv(2, 4, stride=2)
        self.b = conv(4, 4, groups=4)
        self.c = conv(4, 6, 1)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = self.c(torch.relu(self.b(torch.relu(self.a(x)))))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


STEM, A, B, C = 64 * 18, 16 * 72, 16 * 36, 16 * 24
HEAD = 6 * SLOTS


@pytest.mark.parametrize(
    ("preset", "gradients", "weights", "trained"),
    [
        # a is the first trained one: what comes before needs no gradient, so a itself sends none back
        ("centre", B + C + HEAD, 16 * (2 * 4) + 16 * 4 + HEAD, 2 * 4 + 4 + HEAD + SLOTS),
        ("full", B + C + HEAD, A + B + HEAD, 2 * 4 * 9 + 4 * 9 + HEAD + SLOTS),
        ("head", 0, HEAD, HEAD + SLOTS),
    ],
)
def test_a_chain_by_hand(preset: Preset, gradients: int, weights: int, trained: int) -> None:
    network, plan = planned(Chain(), preset, "stem", SLOTS)
    found = cost(network, plan)
    assert found == Cost(
        prefix=STEM,
        suffix=A + B + C + HEAD,
        input_gradients=gradients,
        weight_gradients=weights,
        parameter_bytes=4 * (18 + 2 + 72 + 4 + 36 + 4 + 24 + 6 + 6 * CLASSES + CLASSES),
        trained_bytes=4 * trained,
        state_bytes=8 * trained,
        latent_bytes=2 * 64,
        activation_bytes=4 * 2 * 64,
    )
    assert found.forward == STEM + A + B + C + HEAD
    assert found.step == A + B + C + HEAD + gradients + weights
    assert found.forward_passes_exact == found.step / found.forward


def test_the_centre_of_a_gradient_is_cheaper_than_all_of_it() -> None:
    network, plan = planned(Chain(), "centre", "stem", SLOTS)
    exact, centre = cost(network, plan), cost(network, replace(plan, input_gradient="centre"))
    assert centre == replace(exact, input_gradients=16 * 4 + C + HEAD)  # only b's shrinks: c is frozen, a sends none


def test_a_filtered_gradient_sees_a_quarter_of_the_pixels() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.a, self.b = conv(1, 4), conv(), conv()
            self.head = nn.Linear(4, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.head(self.b(self.a(self.stem(x))).mean((2, 3)))
            return logits

    network, plan = planned(Twice(), "centre", "stem")
    head = 4 * CLASSES
    exact, filtered = cost(network, plan), cost(network, replace(plan, gradient_filter=True))
    assert (exact.input_gradients, exact.weight_gradients) == (64 * 16 * 9 + head, 2 * 64 * 16 + head)
    assert (filtered.input_gradients, filtered.weight_gradients) == (16 * 16 + head, 2 * 16 * 16 + head)


def test_adam_keeps_two_tensors() -> None:
    network, plan = planned(Chain(), "head", "stem")
    assert cost(network, plan, optimiser_tensors=2).state_bytes == 3 * cost(network, plan).trained_bytes


def test_a_convolution_as_head_has_slots_as_well() -> None:
    class Pointwise(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.body, self.head = conv(1, 4), conv(), conv(4, CLASSES, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(self.stem(x))).mean((2, 3))

    found = cost(*planned(Pointwise(), "head", "body", SLOTS))
    assert found.suffix == found.weight_gradients == 64 * 4 * SLOTS
    assert found.input_gradients == 0


def test_a_shortcut_without_training_gets_no_gradient() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.frozen, self.trained = conv(1, 4), conv(4, 4, 1), conv(4, 4)
            self.head = nn.Linear(4, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            logits: Tensor = self.head((self.trained(x) + self.frozen(x)).mean((2, 3)))
            return logits

    found = cost(*planned(Branches(), "centre", "stem"))
    assert found.input_gradients == 4 * CLASSES
    assert found.weight_gradients == 64 * 16 + 4 * CLASSES


def flops(network: Network, plan: Plan, train: bool) -> float:
    """PyTorch's count for one image, in multiply-accumulates: of the network, or of a step behind the cut."""
    shape = network.input.meta["val"].shape
    images = torch.zeros(EXAMPLE_BATCH, *shape[1:])
    if not train:
        with FlopCounterMode(display=False) as counter:
            network.run(images)
        return counter.get_total_flops() / 2 / EXAMPLE_BATCH
    latent = network.run(images)[plan.cut]
    tensors = {network.names[name]: value for name, value in network.constants.items()}
    leaves = {p.name: tensors[p.name].clone().requires_grad_() for p in plan.trained}
    with FlopCounterMode(display=False) as counter:
        logits = network.run_from(plan.cut, latent, leaves)[network.output]
        torch.autograd.grad(logits.sum(), list(leaves.values()))
    return counter.get_total_flops() / 2 / EXAMPLE_BATCH


NETS = {
    "residual": (ResidualNet(CLASSES, 1, (4, 6), 1, seed=0), "group1"),
    "transposed and dilated": (
        nn.Sequential(
            nn.ConvTranspose2d(1, 4, 3, stride=2), conv(4, 6, padding=2, dilation=2), conv(6, 4),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES),
        ),
        "1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("preset", ["full", "head"])
def test_the_same_as_pytorch_counts(name: str, preset: Preset) -> None:
    net, cut = NETS[name]
    network, plan = planned(net, preset, cut)
    found = cost(network, plan)
    assert found.forward == flops(network, plan, train=False)
    assert found.step == flops(network, plan, train=True)


def test_a_products_two_sides_both_carry_gradients() -> None:
    class Gram(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.body, self.head = conv(1, 4), conv(), nn.Linear(16, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            rows = self.body(self.stem(x)).flatten(2)
            logits: Tensor = self.head(torch.bmm(rows, rows.transpose(1, 2)).flatten(1))
            return logits

    network, plan = planned(Gram(), "full", "stem")
    found = cost(network, plan)
    assert found.forward == flops(network, plan, train=False)
    assert found.step == flops(network, plan, train=True)


def test_the_manifest_takes_it() -> None:
    found = cost(*planned(Chain(), "centre", "stem")).to_manifest()
    assert decode(found, Mapping[str, float], "cost") == found
    assert found["macs.step"] == found["macs.suffix"] + found["macs.input_gradients"] + found["macs.weight_gradients"]
