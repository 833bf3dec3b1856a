"""Plans beyond the presets: patterns, groups, heads, cheaper gradients; each against PyTorch's autograd."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compiled_step import LIMIT, Compiled
from small_networks import CLASSES, SIZE, Head, assert_close, conv, randomised, relative_error
from torch import Tensor, nn

from pocketstep.compile.graph import module_path
from pocketstep.compile.quantised import LEVELS, round_prefix, rounded
from pocketstep.compile.sharing import compact_convolutions, with_input_gradient
from pocketstep.compile.trace import trace
from pocketstep.plan import make_plan
from pocketstep_device.errors import InputError


def body(*middle: nn.Module) -> Head:
    """A stem that is never trained, then what is looked at."""
    return Head(conv(1), nn.ReLU(), *middle, nn.ReLU())


class ConvolutionHead(nn.Module):
    """As SqueezeNet ends: 1x1 convolution, ReLU, average over the pixels."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(1), nn.ReLU(), conv(), nn.ReLU())
        self.classifier = nn.Sequential(nn.Dropout(), nn.Conv2d(4, CLASSES, 1, bias=bias), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d((1, 1))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = torch.flatten(self.pool(self.classifier(self.body(x))), 1)
        return logits


class NoBias(Head):
    """A head without a bias."""

    def __init__(self) -> None:
        super().__init__(conv(1), nn.ReLU(), conv(), nn.ReLU())
        self.head = nn.Linear(4, CLASSES, bias=False)


STRIDED = (conv(stride=2), nn.ReLU(), conv(), nn.ReLU(), conv(stride=2), nn.ReLU())
CASES: dict[str, tuple[nn.Module, dict[str, Any]]] = {
    "centre by pattern": (body(*STRIDED, conv()), {"roles": [("body.[68]", "centre")]}),
    "all taps by pattern": (body(conv(stride=2), nn.ReLU(), conv()), {"roles": [("body.4", "full")]}),
    "a later pattern freezes": (body(conv(), nn.ReLU(), conv()), {"roles": [("*", "full"), ("body.[02]", "frozen")]}),
    "1x1": (body(conv(kernel=1, padding=0), nn.ReLU()), {"roles": [("body.2", "full")]}),
    "1x1 strided centre": (body(conv(kernel=1, padding=0, stride=2)), {"roles": [("body.2", "centre")]}),
    "grouped centre": (body(conv(groups=2), nn.ReLU(), conv(groups=2)), {"roles": [("body.[24]", "centre")]}),
    "grouped taps": (body(conv(groups=2, stride=2), nn.ReLU(), conv(groups=2)), {"roles": [("body.[24]", "full")]}),
    "depthwise centre": (body(conv(groups=4), nn.ReLU(), conv(groups=4)), {"roles": [("body.[24]", "centre")]}),
    "depthwise taps": (body(conv(groups=4, stride=2), nn.ReLU(), conv(groups=4)), {"roles": [("body.[24]", "full")]}),
    "dilated taps": (body(conv(dilation=2, padding=2), nn.ReLU(), conv()), {"roles": [("body.[24]", "full")]}),
    "dilated centre": (body(conv(dilation=2, padding=1), nn.ReLU(), conv()), {"roles": [("body.[24]", "centre")]}),
    "convolutional head": (ConvolutionHead(), {"roles": [("body.2", "centre")]}),
    "convolutional head without bias": (ConvolutionHead(bias=False), {}),
    "head without bias": (NoBias(), {"roles": [("body.2", "centre")]}),
    "gradient through the centre": (
        body(*STRIDED, conv()),
        {"roles": [("body.[2468]", "centre")], "input_gradient": "centre"},
    ),
    "filtered gradient": (
        body(conv(), nn.ReLU(), conv(stride=2), nn.ReLU(), conv()),
        {"roles": [("body.[246]", "centre")], "gradient_filter": True},
    ),
    "filtered gradient through the centre": (
        body(conv(), nn.ReLU(), conv(stride=2), nn.ReLU(), conv()),
        {"roles": [("body.[246]", "centre")], "gradient_filter": True, "input_gradient": "centre"},
    ),
    "no second constants": (
        body(*STRIDED, conv()),
        {"roles": [("body.[2468]", "centre")], "allowance": 0.0},
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("signature", ["classify", "score", "step"])
def test_any_plan_agrees_with_autograd(name: str, signature: str) -> None:
    net, how = CASES[name]
    compiled = Compiled("head", net=randomised(net), **how)
    values = compiled.values(signature)
    outputs = compiled.signatures[signature].function(values)
    expected = compiled.oracle.signatures[signature](values)
    for key, value in expected.items():
        assert_close(outputs[key], value.detach(), f"{name}: {key}", LIMIT)


def test_cheaper_gradients_are_not_the_exact_ones() -> None:
    """Otherwise the oracle of the cheap ones would prove nothing."""
    net = randomised(body(conv(), nn.ReLU(), conv(), nn.ReLU(), conv()))
    roles = [("body.[246]", "centre")]
    first = "gradient.body.2.centre"
    gradients = {}
    for name, how in {
        "exact": {},
        "centre": {"input_gradient": "centre"},
        "filter": {"gradient_filter": True},
    }.items():
        compiled = Compiled("head", net=net, roles=roles, **how)
        values = compiled.values("score")
        gradients[name] = compiled.score(values)[first] - values[first]
    assert relative_error(gradients["centre"], gradients["exact"]) > 0.1
    assert relative_error(gradients["filter"], gradients["exact"]) > 0.1


def test_groups_train_the_last_convolution_of_each() -> None:
    net = Head(conv(1), nn.ReLU(), conv(), conv(), nn.ReLU(), conv(stride=2), conv(), nn.ReLU())
    network = trace(randomised(net), (1, SIZE, SIZE))
    plan = make_plan(network, "groups", CLASSES)
    assert [p.trained for p in plan.trained] == ["body.3.taps", "body.6.taps", "head.weight", "head.bias"]
    assert module_path(plan.cut) == "body.2"


def test_without_a_cut_the_latest_is_found() -> None:
    network = trace(randomised(body(*STRIDED, conv())), (1, SIZE, SIZE))
    assert module_path(make_plan(network, "head", CLASSES, roles=[("body.6", "full")]).cut) == "body.5"


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"roles": [("nothing.*", "full")]}, "'nothing\\.\\*' matches no module"),
        ({"roles": [("body.1", "full")]}, "no convolution that can be trained"),
        ({"roles": [("body.0", "half")]}, "'half' is no role"),
        ({"roles": [("body.0", "full")]}, "no single feature map reaches 'body.0'"),
        ({"roles": [("body.2", "full")], "cut": "body.3"}, "'body.2' shall be trained but lies before the cut"),
        ({"input_gradient": "none"}, "unknown input gradient 'none'"),
    ],
)
def test_what_cannot_be_planned_is_said(how: dict[str, Any], message: str) -> None:
    network = trace(randomised(body(conv(), nn.ReLU(), conv())), (1, SIZE, SIZE))
    with pytest.raises(InputError, match=message):
        make_plan(network, "head", CLASSES, how.pop("cut", None), **how)


def test_second_constants_keep_within_their_allowance() -> None:
    net = randomised(body(*(conv() for _ in range(6))))
    network = trace(net, (1, SIZE, SIZE))
    plan = make_plan(network, "head", CLASSES, roles=[("body.[2-7]", "centre")])
    through = [n for n in with_input_gradient(network, plan) if n.target is torch.ops.aten.convolution.default]
    assert len(through) == 5  # the first trained one needs no input gradient
    assert compact_convolutions(network, plan, 64, 10.0) == frozenset()
    assert len(compact_convolutions(network, plan, 64, 0.0)) == 5
    assert 0 < len(compact_convolutions(network, plan, 64, 0.4)) < 5


def test_an_int8_prefix_rounds_the_prefix_only() -> None:
    net = randomised(body(conv(), nn.ReLU(), conv()))
    network = trace(net, (1, SIZE, SIZE))
    before = dict(network.constants)
    plan = make_plan(network, "last", CLASSES, "body.2")
    assert round_prefix(network, plan) == 4 * 9 + 16 * 9
    changed = {network.names[k] for k, v in network.constants.items() if not torch.equal(v, before[k])}
    assert changed == {"body.0.weight", "body.2.weight"}
    weight = next(v for k, v in before.items() if network.names[k] == "body.2.weight")
    codes = rounded(weight) / (weight.abs().amax((1, 2, 3), keepdim=True) / LEVELS)
    torch.testing.assert_close(codes, codes.round(), atol=1e-4, rtol=0)
    assert (rounded(weight) - weight).abs().max() <= weight.abs().max() / LEVELS / 2 + 1e-7
