from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from pocketstep.networks import ResidualNet
from pocketstep.prune import thin, zero_share
from pocketstep.shallow import shallow
from pocketstep_device.errors import InputError


def kill(norm, filters):
    """Makes the batch norm's outputs of some filters negative, whatever comes in."""
    with torch.no_grad():
        norm.weight[filters] = 0
        norm.bias[filters] = -1


@pytest.fixture
def images():
    return torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model(images):
    net = ResidualNet(3, widths=(4, 8), blocks=1, seed=1)
    net(images)  # running statistics
    return net.eval()


def test_equation_2_on_a_handmade_activation():
    maps = torch.zeros(2, 2, 2, 5)
    maps[0, 0, 0, 0] = 3
    maps[1, 1] = -1
    torch.testing.assert_close(zero_share(maps), torch.tensor([[0.9, 1.0], [1.0, 0.0]]))


def test_shallow_keeps_the_last_block_of_each_group():
    teacher = ResidualNet(3, widths=(4, 8, 8), blocks=3, seed=2)
    student = shallow(teacher)
    assert [len(group) for group in student.blocks] == [1, 1, 1]
    for kept, group in zip(student.blocks, teacher.blocks, strict=True):
        assert torch.equal(kept[0].conv2.weight, group[-1].conv2.weight)
        assert kept[0].shape == group[0].shape
    assert torch.equal(student.group1[0].conv1.weight, teacher.group1[2].conv1.weight)
    for name in ("group2", "group3"):  # entry of the first block, also where shapes would allow the last's
        kept, first = getattr(student, name)[0], getattr(teacher, name)[0]
        assert torch.equal(kept.conv1.weight, first.conv1.weight)
        assert torch.equal(kept.shortcut[0].weight, first.shortcut[0].weight)
    assert torch.equal(student.head.weight, teacher.head.weight)
    assert student(torch.randn(2, 1, 16, 16)).shape == (2, 3)


def test_shallow_of_single_blocks_is_the_same_function(model, images):
    assert torch.equal(shallow(model)(images), model(images))


def test_shallow_survives_other_inner_widths():
    plan = ResidualNet(3, widths=(4, 8), blocks=2).architecture
    last = replace(plan.groups[1][1], middle=5)
    teacher = ResidualNet.from_architecture(replace(plan, groups=(plan.groups[0], (plan.groups[1][0], last))))
    student = shallow(teacher)
    assert student.group2[0].conv1.weight.shape == (5, 4, 3, 3)
    assert torch.equal(student.group2[0].conv2.weight, teacher.group2[1].conv2.weight)


def test_removing_dead_filters_keeps_the_function(model, images):
    kill(model.group1[0].bn1, [1, 3])
    kill(model.group2[0].bn1, [0, 2, 5])
    expected = model(images)
    weights = [p.clone() for p in model.parameters()]
    thinned, report = thin(model, images, 1.0, min_width=1)
    assert thinned.group1[0].conv1.out_channels == 2
    assert thinned.group2[0].conv1.out_channels == 5
    torch.testing.assert_close(thinned(images), expected)
    assert report.parameters_after < report.parameters_before
    assert report.macs_after < report.macs_before
    assert report.parameters_before == sum(p.numel() for p in model.parameters())
    assert report.parameters_after == sum(p.numel() for p in thinned.parameters())
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))


def test_coupled_layers_lose_the_same_filters(model, images):
    block = model.group2[0]
    kill(block.bn2, [1, 6])
    kill(block.shortcut[1], [1, 6])
    expected = model(images)
    thinned, report = thin(model, images, 1.0, min_width=1)
    assert thinned.group2[0].conv2.out_channels == thinned.group2[0].shortcut[0].out_channels == 6
    assert thinned.head.in_features == 6
    torch.testing.assert_close(thinned(images), expected)
    rows = {layer.name: layer for layer in report.layers}
    assert rows["group2.0.conv2"].after == rows["group2.0.shortcut.conv"].after == 6
    assert rows["group2.0.conv2"].zero_share >= 2 / 8


def test_a_filter_alive_in_one_coupled_activation_stays(model, images):
    kill(model.stem[1], [2])  # the stem's ReLU is silent there, but the block's sum is not
    with torch.no_grad():
        model.group1[0].bn2.bias[2] = 5
    thinned, _ = thin(model, images, 1.0, min_width=1)
    assert thinned.stem[0].out_channels == 4


class Layer(nn.Module):
    """ReLU of a 1x1 convolution with given weights, so that activations are known by hand."""

    def __init__(self, weights):
        super().__init__()
        self.conv = nn.Conv2d(1, len(weights), 1, bias=False)
        self.relu = nn.ReLU()
        self.last = nn.Conv2d(len(weights), 2, 1)
        with torch.no_grad():
            self.conv.weight[:, 0, 0, 0] = torch.tensor(weights)

    def forward(self, x):
        return self.last(self.relu(self.conv(x))).mean((2, 3))


def hand_images():
    """Image 0 is positive in 3 of 4 pixels, image 1 in 1 of 4."""
    return torch.tensor([[[[1.0, 1], [1, -1]]], [[[1.0, -1], [-1, -1]]]])


@pytest.mark.parametrize(
    ("threshold", "settings", "width"),
    [
        # weights +, -, +, -, 0: zero shares (1/4 3/4 1/4 3/4 1) and (3/4 1/4 3/4 1/4 1)
        (1.0, {}, 4),
        (0.75, {}, 2),
        (0.75, {"min_width": 3}, 3),
        (0.75, {"round_to": 4}, 4),
        (0.75, {"round_to": 8}, 5),
    ],
)
def test_new_width_is_n_minus_avgc(threshold, settings, width):
    layer = Layer([1.0, -1, 1, -1, 0])
    thinned, report = thin(layer, hand_images(), threshold, **{"min_width": 1, **settings})
    assert thinned.conv.out_channels == thinned.last.in_channels == width
    assert thinned.last.out_channels == 2
    assert [(row.name, row.before, row.after) for row in report.layers] == [("conv", 5, width)]
    assert report.layers[0].zero_share == pytest.approx((4 * 0.5 + 1) / 5)


def test_the_most_active_filters_are_kept():
    layer = Layer([-1.0, 1, -1, 1])
    thinned, _ = thin(layer, hand_images()[:1], 0.75, min_width=1)
    assert thinned.conv.weight.flatten().tolist() == [1, 1]


def test_frozen_networks_and_disabled_gradients_are_no_obstacle(model, images):
    kill(model.group1[0].bn1, [0])
    with torch.no_grad():
        thinned, _ = thin(model.requires_grad_(False), images, 1.0, min_width=1)
    assert thinned.group1[0].conv1.out_channels == 3


def test_the_output_is_never_thinned():
    class Ends(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.relu, self.outer, self.end = (
                nn.Conv2d(1, 4, 3),
                nn.ReLU(),
                nn.Conv2d(4, 3, 1),
                nn.ReLU(),
            )
            nn.init.constant_(self.outer.bias, -100)
            nn.init.constant_(self.inner.bias, -100)

        def forward(self, x):
            return self.end(self.outer(self.relu(self.inner(x)))).mean((2, 3))

    thinned, _ = thin(Ends(), torch.zeros(2, 1, 4, 4), 1.0, min_width=1)
    assert (thinned.inner.out_channels, thinned.outer.out_channels) == (1, 3)


@pytest.mark.parametrize("threshold", [0.49, 1.01, float("nan")])
def test_thresholds_out_of_range_are_refused(model, images, threshold):
    with pytest.raises(InputError, match=r"0\.5 to 1\.0"):
        thin(model, images, threshold)


def test_other_bad_input_is_refused(model, images):
    with pytest.raises(InputError, match="1 or more"):
        thin(model, images, 0.9, round_to=0)
    with pytest.raises(InputError, match="normalised float"):
        thin(model, images.to(torch.uint8), 0.9)
    with pytest.raises(InputError, match="nothing to thin"):
        thin(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()), images, 0.9)
