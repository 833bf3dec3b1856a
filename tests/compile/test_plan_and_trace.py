from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from small_networks import CLASSES, SIZE, SLOTS, Head, assert_close, conv, randomised, residual_net
from torch import Tensor, nn

from pocketstep.compile.cuts import crossings
from pocketstep.compile.folding import BATCH_NORM
from pocketstep.compile.graph import Network, module_path
from pocketstep.compile.heads import find_head
from pocketstep.compile.trace import trace
from pocketstep.compile.walk import Kernels, Walk, fold_back, initial_state
from pocketstep.plan import PRESETS, Preset, make_plan
from pocketstep_device.errors import InputError

LIMIT = 1e-5


class Body(nn.Module):
    """``first``, then a function of its output, then the mean and the head; modules by name."""

    def __init__(
        self,
        behind: Callable[[Body, Tensor], Tensor],
        before: Callable[[Body, Tensor], Tensor] | None = None,
        channels: int = 4,
        **modules: nn.Module | nn.Parameter,
    ) -> None:
        super().__init__()
        self.behind, self.before = behind, before
        for name, module in modules.items():
            setattr(self, name, module)
        self.first = nn.Sequential(conv(1, 4), nn.ReLU())
        self.head = nn.Linear(channels, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.behind(self, self.first(self.before(self, x) if self.before else x))
        logits: Tensor = self.head(x.mean((2, 3)) if x.dim() == 4 else x)
        return logits


def images(channels: int = 1, size: int = SIZE, batch: int = 3) -> Tensor:
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(5))


def walked(network: Network, preset: Preset, cut: str | None, x: Tensor) -> Tensor:
    """Logits of prefix and suffix, over all slots."""
    plan = make_plan(network, preset, SLOTS, cut)
    state = initial_state(network, plan)
    latent = Walk(network, plan, Kernels(), {}).prefix(x.permute(0, 2, 3, 1))
    return Walk(network, plan, Kernels(), state).suffix(latent)[0].detach()


@cache
def traced_residual_net(blocks: int = 1) -> Network:
    return trace(residual_net(blocks), (1, SIZE, SIZE))


def assert_walk_equals_module(
    net: nn.Module, preset: Preset, cut: str | None, x: Tensor, network: Network | None = None
) -> None:
    logits = walked(network or trace(net, (x.shape[1], x.shape[2], x.shape[3])), preset, cut, x)
    assert logits.shape == (len(x), SLOTS)
    expected = net(x).detach()
    assert_close(logits[:, : expected.shape[1]], expected, f"preset {preset}", LIMIT)
    assert (logits[:, expected.shape[1] :] == 0).all()  # spare rows are zero


# Batch norms


@pytest.mark.parametrize(
    ("net", "left"),
    [
        (Head(conv(1), nn.BatchNorm2d(4), nn.ReLU(), conv(4), nn.BatchNorm2d(4)), 0),
        (Head(conv(1, stride=2), nn.BatchNorm2d(4, affine=False, eps=0.1)), 0),
        (Head(nn.Conv2d(1, 4, 1, bias=False), nn.BatchNorm2d(4)), 0),
        (Head(conv(1), nn.ReLU(), nn.BatchNorm2d(4), nn.ReLU(), conv(4)), 1),  # pre-activation: nothing to fold into
        (nn.Sequential(Head(conv(1)), nn.BatchNorm1d(CLASSES), nn.Linear(CLASSES, CLASSES)), 1),
    ],
    ids=["conv", "no affine", "no bias", "pre-activation", "rank 2"],
)
def test_batch_norms_are_folded(net: nn.Module, left: int) -> None:
    x = images()
    fresh = net.eval()(x).detach()
    expected = randomised(net)(x).detach()
    assert (expected - fresh).abs().max() > 0.01  # the statistics matter
    network = trace(net, (1, SIZE, SIZE))
    targets = [node.target for node in network.operators]
    assert BATCH_NORM not in targets
    assert targets.count(torch.ops.aten.mul.Tensor) == left
    assert_close(network.run(x)[network.output].detach(), expected, "folded network", LIMIT)


def test_a_convolution_that_is_read_twice_is_not_folded_into() -> None:
    class Twice(Head):
        def forward(self, x: Tensor) -> Tensor:
            y = self.body[0](x)
            logits: Tensor = self.head((self.body[1](y) + y).mean((2, 3)))
            return logits

    net = randomised(Twice(conv(1), nn.BatchNorm2d(4)))
    network = trace(net, (1, SIZE, SIZE))
    assert_close(network.run(images())[network.output].detach(), net(images()).detach(), "network", LIMIT)


# The trace


def test_untraceable_and_unsuitable_networks() -> None:
    class Branching(Head):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x if x.sum() > 0 else -x)

    class TwoOutputs(Head):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
            return super().forward(x), x

    with pytest.raises(InputError, match=r"torch\.export cannot trace this network"):
        trace(Branching(conv(1)), (1, SIZE, SIZE))
    with pytest.raises(InputError, match="one tensor of logits"):
        trace(TwoOutputs(conv(1)), (1, SIZE, SIZE))
    network = trace(nn.Sequential(Head(conv(1)), nn.ReLU()), (1, SIZE, SIZE))
    with pytest.raises(InputError, match="not in a linear layer"):
        find_head(network)


# The plan


def test_presets_train_what_they_say() -> None:
    network = traced_residual_net(blocks=2)
    head = {"head.weight": (SLOTS, 6), "head.bias": (SLOTS,)}
    last = [f"group2.1.conv{i}" for i in (1, 2)]
    behind = ["group2.0.conv1", "group2.0.conv2", *last]
    taps = {"group2.0.conv1": (9 * 4, 6), **dict.fromkeys(["group2.0.conv2", *last], (9 * 6, 6))}
    centres = {name: (shape[0] // 9, shape[1]) for name, shape in taps.items()}

    def trained(preset: Preset, cut: str | None) -> dict[str, object]:
        return {p.trained or "": p.trained_shape for p in make_plan(network, preset, SLOTS, cut).trained}

    assert trained("head", None) == head
    assert trained("last", None) == {**{f"{n}.taps": taps[n] for n in last}, **head}
    assert trained("full", "group1") == {**{f"{n}.taps": taps[n] for n in behind}, **head}
    assert trained("centre", "group1") == {**{f"{n}.centre": centres[n] for n in behind}, **head}
    assert trained("centre", None) == {**{f"{n}.centre": centres[n] for n in last}, **head}
    plan = make_plan(network, "centre", SLOTS, "group1")
    assert {p.name: p.group for p in plan.trained} == {
        **{f"{n}.weight": "body" for n in behind},
        "head.weight": "head",
        "head.bias": "head",
    }
    assert plan.role("group2.0.shortcut.conv.weight") == "frozen"  # 1x1
    assert plan.role("stem.conv.weight") == plan.role("group1.0.conv1.weight") == "frozen"
    assert plan.slots == SLOTS


def test_the_cut_is_the_latest_place_that_one_tensor_crosses() -> None:
    network = traced_residual_net(blocks=2)
    order = network.operators
    for preset in ("centre", "last"):
        cut = make_plan(network, preset, SLOTS).cut
        assert module_path(cut) == "group2.0.relu2"
        assert crossings(network, cut) == {cut}
        first_trained = next(n for n in order if module_path(n) == "group2.1.conv1")
        between = order[order.index(cut) + 1 : order.index(first_trained)]
        assert not [n for n in between if crossings(network, n) == {n}]
    head_cut = make_plan(network, "head", SLOTS).cut
    assert module_path(head_cut) == "group2.1.relu2"
    later = order[order.index(head_cut) + 1 :]
    assert not [n for n in later if n.meta["val"].dim() == 4 and crossings(network, n) == {n}]


def test_wrong_names_and_numbers() -> None:
    network = traced_residual_net()
    with pytest.raises(InputError, match=r"no module 'group1\.0\.rellu2' .* did you mean .*group1\.0\.relu2"):
        make_plan(network, "centre", SLOTS, "group1.0.rellu2")
    with pytest.raises(InputError, match=f"unknown plan 'all'; choose one of {', '.join(PRESETS)}"):
        make_plan(network, "all", SLOTS)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="2 class slots are fewer than the network's 3 classes"):
        make_plan(network, "head", CLASSES - 1)


def test_a_cut_that_two_tensors_cross_names_a_later_one() -> None:
    network = traced_residual_net()
    with pytest.raises(InputError) as error:  # the shortcut passes it by
        make_plan(network, "centre", SLOTS, "group1.0.conv1")
    message = str(error.value)
    assert "more than one tensor crosses the cut after 'group1.0.conv1'" in message
    suggested = message.rsplit("after '", 1)[1].removesuffix("'")
    assert suggested in ("group1.0", "group1.0.relu2")
    make_plan(network, "centre", SLOTS, suggested)


def test_a_cut_behind_the_pooling_is_refused() -> None:
    net = nn.Sequential(Head(conv(1)), nn.ReLU(), nn.Linear(CLASSES, CLASSES))
    with pytest.raises(InputError, match=r"the latent after '0\.head' is no feature map"):
        make_plan(trace(net, (1, SIZE, SIZE)), "head", SLOTS, "0.head")


def test_no_convolution_to_train() -> None:
    network = trace(Head(nn.Conv2d(1, 4, 1), nn.ReLU()), (1, SIZE, SIZE))
    with pytest.raises(InputError, match="no convolution larger than 1x1"):
        make_plan(network, "centre", SLOTS)
    assert {p.trained for p in make_plan(network, "head", SLOTS).trained} == {"head.bias", "head.weight"}


# The walk


@pytest.mark.parametrize("preset", PRESETS)
def test_walk_equals_the_residual_net(preset: Preset) -> None:
    for cut in (None, "group1", "stem"):
        assert_walk_equals_module(residual_net(), preset, cut, images(), traced_residual_net())


@pytest.fixture(scope="module")
def resnet18() -> tuple[nn.Module, Network]:
    """torchvision's, with its max-pooling in the prefix, and three classes."""
    import torchvision

    torch.manual_seed(0)
    net = randomised(torchvision.models.resnet18(num_classes=CLASSES))
    return net, trace(net, (3, 32, 32))


@pytest.mark.parametrize(("preset", "cut"), [("centre", "layer3"), ("last", None), ("full", "layer3"), ("head", None)])
def test_walk_equals_resnet18(resnet18: tuple[nn.Module, Network], preset: Preset, cut: str | None) -> None:
    net, network = resnet18
    x = images(3, 32, 2)
    with torch.no_grad():
        assert_close(walked(network, preset, cut, x)[:, :CLASSES], net(x), f"preset {preset}", LIMIT)


def test_a_cut_after_the_max_pooling(resnet18: tuple[nn.Module, Network]) -> None:
    net, network = resnet18
    x = images(3, 32, 2)
    with torch.no_grad():
        assert_close(walked(network, "centre", "maxpool", x)[:, :CLASSES], net(x), "cut at maxpool", LIMIT)


GEOMETRIES = [  # kernel, stride, padding, dilation
    (3, 2, 1, 1), (3, 1, 0, 1), (2, 2, 0, 1), (4, 2, 1, 1), (3, 1, 2, 2), (3, 1, 1, 2), (5, 2, 2, 1), (2, 1, 1, 1),
]  # fmt: skip


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_walk_of_any_convolution(geometry: tuple[int, int, int, int]) -> None:
    """Dense, then depthwise."""
    net = Body(lambda m, x: m.deep(m.dense(x)), dense=nn.Conv2d(4, 4, *geometry), deep=nn.Conv2d(4, 4, *geometry, 4))
    network, x = trace(net.eval(), (1, 24, 24)), images(1, 24)
    presets: tuple[Preset, ...] = ("centre", "full")
    for preset in presets:
        assert len(make_plan(network, preset, SLOTS, "first").trained) == 4
        assert_walk_equals_module(net, preset, "first", x, network)


def shuffled(x: Tensor) -> Tensor:
    """ShuffleNet's exchange of channels between groups."""
    b, c, h, w = x.shape
    return x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)


@pytest.mark.parametrize(
    "net",
    [
        Body(lambda m, x: F.relu6(m.conv(x) * 5), conv=conv()),
        Body(lambda m, x: torch.add(m.conv(x), x, alpha=2), conv=conv()),
        Body(lambda m, x: F.dropout(m.conv(x), training=m.training) * 0.5 + 1, conv=conv()),
        Body(lambda m, x: m.conv(F.relu(m.bn(x))), conv=conv(), bn=nn.BatchNorm2d(4)),
        Body(lambda m, x: F.adaptive_avg_pool2d(m.conv(x), 1).flatten(1), conv=conv()),
        Body(lambda m, x: m.conv(x).flatten(1), conv=conv(stride=2), channels=64),
        Body(lambda m, x: m.conv(x).mean(3).mean(2), conv=conv(), channels=4),
        Body(lambda m, x: m.conv(x) * m.gate(x.mean((2, 3), keepdim=True)), conv=conv(), gate=conv(kernel=1)),
        Body(lambda m, x: shuffled(m.conv(x)), conv=conv()),
        Body(lambda m, x: m.conv(m.conv(x)), conv=conv()),
        Body(lambda m, x: m.conv(x) * m.scale.view(1, -1, 1, 1), conv=conv(), scale=nn.Parameter(torch.rand(4))),
        Body(lambda m, x: m.conv(x) + m.map, conv=conv(), map=nn.Parameter(torch.rand(4, SIZE, SIZE))),
        Body(lambda m, x: m.conv(x) * m.map, conv=conv(), map=nn.Parameter(torch.rand(SIZE, SIZE))),
        Body(
            lambda m, x: m.hidden(m.conv(x).mean((2, 3))),
            conv=conv(),
            hidden=nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout()),
            channels=6,
        ),
    ],
    ids=[
        "relu6", "alpha", "dropout, numbers", "pre-activation", "adaptive pooling", "flatten", "means", "gate",
        "shuffle", "shared", "scale", "position", "position 2d", "hidden layer",
    ],
)  # fmt: skip
def test_walk_of_other_operators_behind_the_cut(net: nn.Module) -> None:
    assert_walk_equals_module(randomised(net), "centre", "first", images())


@pytest.mark.parametrize(
    "before",
    [
        lambda m, x: F.max_pool2d(x, 2),
        lambda m, x: torch.cumsum(x, 3),
        lambda m, x: m.narrow(shuffled(m.wide(x))),
        lambda m, x: F.pixel_shuffle(m.wide(x), 2),
        lambda m, x: m.turned(x),
        lambda m, x: F.hardtanh(x, -0.5, 1),
        lambda m, x: F.hardtanh(x),
        lambda m, x: m.narrow(torch.cat([x, x - 1, x * 2, torch.softmax(x, 3)], 1)),
        lambda m, x: x * m.scale.view(1, -1, 1, 1),
    ],
    ids=["max-pool", "cumsum", "shuffle", "pixel shuffle", "transposed", "hardtanh", "hardtanh 1", "cat", "scale"],
)
def test_any_operator_is_fine_in_the_prefix(before: Callable[[Body, Tensor], Tensor]) -> None:
    net = Body(
        lambda m, x: m.conv(x),
        before,
        conv=conv(),
        wide=conv(1, 4, 1),
        narrow=conv(4, 1, 1),
        turned=nn.ConvTranspose2d(1, 1, 3, padding=1),
        scale=nn.Parameter(torch.rand(1)),
    )
    assert_walk_equals_module(net, "centre", "first", images())


class Cumulative(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cumsum(x, 1)


@pytest.mark.parametrize(
    ("module", "operator"),
    [
        (Cumulative(), r"aten\.cumsum"),
        (nn.Hardshrink(), r"aten\.le"),
        (nn.ConvTranspose2d(4, 4, 3, padding=1), r"aten\.convolution"),
        (nn.AdaptiveMaxPool2d(5), r"aten\.adaptive_max_pool2d"),
    ],
    ids=["cumsum", "hardshrink", "transposed", "uneven maxima"],
)
def test_missing_rule_names_module_operator_and_a_later_cut(module: nn.Module, operator: str) -> None:
    net = randomised(Head(conv(1), nn.ReLU(), conv(4), module, nn.Sequential(conv(4), nn.ReLU()), conv(4)))
    network = trace(net, (1, SIZE, SIZE))
    with pytest.raises(InputError, match=rf"module 'body\.3' uses {operator}.*no backward") as error:
        walked(network, "centre", "body.1", images())
    suggested = str(error.value).split("cut after '")[1].split("'")[0]
    assert suggested in ("body.3", "body.4.0")  # a module with two outputs is no place to cut
    logits = walked(network, "centre", suggested, images())
    assert_close(logits[:, :CLASSES], net(images()).detach(), "the suggested cut", LIMIT)


def test_missing_rule_without_a_later_cut_suggests_the_head() -> None:
    net = Body(lambda m, x: torch.cumsum(m.conv(x), 1), conv=conv())
    with pytest.raises(InputError, match=r"train the head only \(--plan head\)"):
        walked(trace(net, (1, SIZE, SIZE)), "centre", "first", images())


@pytest.mark.parametrize(("preset", "cut"), [("centre", "stem"), ("last", None), ("full", "stem"), ("head", None)])
def test_fold_back_of_the_initial_state_is_the_network(preset: Preset, cut: str | None) -> None:
    network = traced_residual_net()
    plan = make_plan(network, preset, SLOTS, cut)
    weights = {network.names[k]: v for k, v in network.constants.items()}
    folded = fold_back(network, plan, initial_state(network, plan))
    assert folded.keys() == {p.name for p in plan.trained}
    for name, value in folded.items():
        original = weights[name]
        assert torch.equal(value[: len(original)] if name.startswith("head") else value, original), name


def test_fold_back_of_a_depthwise_centre() -> None:
    network = trace(Head(conv(1), conv(4, groups=4)), (1, SIZE, SIZE))
    plan = make_plan(network, "centre", SLOTS, "body.0")
    state = initial_state(network, plan)
    assert state["body.1.centre"].shape == (4,)
    kernel = fold_back(network, plan, {**state, "body.1.centre": torch.arange(4.0)})["body.1.weight"]
    original = network.constants[next(k for k, v in network.names.items() if v == "body.1.weight")]
    assert kernel[:, 0, 1, 1].tolist() == [0, 1, 2, 3]
    changed = (kernel != original).nonzero()[:, 2:]
    assert (changed == 1).all()
