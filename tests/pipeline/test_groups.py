"""Groups, shallow and thin on the networks that the recipes name, and on a user's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pocketstep.architectures import Blueprint, build_network
from pocketstep.criteria import IMPORTANCES, prune, prune_to
from pocketstep.distill import KnowledgeTransfer
from pocketstep.groups import can_shorten, find_groups, last_convolutions
from pocketstep.prune import thin
from pocketstep.shallow import shallow
from pocketstep.weights import load_network, save_network
from pocketstep_device.errors import InputError

KNOWN = {  # blocks of each group
    "wrn-16-1": [2, 2, 2],
    "resnet18": [2, 2, 2, 2],
    "vgg16": [2, 2, 3, 3, 3],
    "alexnet": [1, 1, 3],
    "mobilenet_v2": [1, 2, 3, 4, 3, 3, 1],
}


def built(name: str, device: str = "cpu") -> nn.Module:
    with torch.device(device):
        return build_network(Blueprint(name, 5, 3, (32, 32)), seed=1).eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "blocks"), [*KNOWN.items(), ("wrn-16-4", [2] * 3), ("wrn-28-10", [4] * 3), ("resnet34", [3, 4, 6, 3])]
)
def test_groups_are_found(name, blocks):
    network = built(name, "meta")  # no memory for the large ones
    groups = find_groups(network)
    assert [len(group.blocks) for group in groups] == blocks
    assert len(set(last_convolutions(network, groups))) == len(groups)


@pytest.mark.parametrize("name", KNOWN)
def test_compressed_networks_work_teach_and_come_back_from_a_file(name, images, tmp_path):
    teacher = built(name)
    student = shallow(teacher)
    assert [len(group.blocks) for group in find_groups(student)] == [1] * len(KNOWN[name])
    thinned, report = thin(student, images, 0.5)
    assert report.parameters_after < report.parameters_before
    with KnowledgeTransfer(teacher, thinned, (1, 1, 1)) as transfer:
        transfer(thinned, images, torch.arange(6) % 5).backward()
    for convolution in last_convolutions(thinned, find_groups(thinned)):
        assert thinned.get_submodule(convolution).weight.grad.abs().sum() > 0
    expected = thinned(images)
    save_network(thinned, tmp_path / "net.safetensors")
    assert torch.equal(load_network(tmp_path / "net.safetensors")(images), expected)


def test_wide_blocks_keep_entry_from_first_and_rest_from_last():
    teacher = built("wrn-16-1")
    kept, first, last = shallow(teacher).group2[0], teacher.group2[0], teacher.group2[1]
    assert torch.equal(kept.conv1.weight, first.conv1.weight)
    assert torch.equal(kept.shortcut.weight, first.shortcut.weight)
    assert torch.equal(kept.conv2.weight, last.conv2.weight)
    assert kept.conv1.stride == (2, 2)


def test_inverted_residuals_keep_the_last_blocks_widths():
    teacher = built("mobilenet_v2")
    kept, last = shallow(teacher).features[2], teacher.features[3]
    assert [m.out_channels for m in kept.modules() if isinstance(m, nn.Conv2d)] == [
        m.out_channels for m in last.modules() if isinstance(m, nn.Conv2d)
    ]
    assert torch.equal(kept.conv[2].weight, last.conv[2].weight)


class Own(nn.Module):
    """A user's network whose blocks are in module lists, where nothing is found without a pattern."""

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.relu(self.norm(self.conv(x)))

    def __init__(self) -> None:
        super().__init__()
        sizes = [[(3, 8, 1), (8, 8, 1)], [(8, 12, 2), (12, 12, 1), (12, 12, 1)]]
        self.stages = nn.ModuleList(nn.ModuleList(Own.Block(*size) for size in stage) for stage in sizes)
        self.head = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for stage in self.stages:
            for block in stage:
                x = block(x)
        return self.head(x.mean((2, 3)))


def test_a_users_network_by_pattern(images):
    teacher = Own().eval()
    assert find_groups(teacher) == []
    with pytest.raises(InputError, match="no groups of blocks to shorten"):
        shallow(teacher)
    with pytest.raises(InputError, match="no module matches the groups' pattern 'layers"):
        find_groups(teacher, "layers.*.*")
    student = shallow(teacher, "stages.*.*")
    assert [len(group.blocks) for group in find_groups(student, "stages.*.*")] == [1, 1]
    thinned, report = thin(student, images, 0.5, min_width=2)  # F.relu, not a module
    assert report.macs_after < report.macs_before
    with KnowledgeTransfer(teacher, thinned, pattern="stages.*.*") as transfer:
        assert transfer(thinned, images, torch.zeros(6).long()).isfinite()
        assert [pair[1] for pair in transfer.pairs] == [0, 0]
    assert not can_shorten(find_groups(student, "stages.*.*"))


def test_ignored_layers_keep_their_filters(images):
    network = built("wrn-16-1")
    kept = network.group1[0].conv1
    thinned, _ = thin(network, images, 0.5, ignored_layers=[kept])
    free, _ = thin(network, images, 0.5)
    assert thinned.group1[0].conv1.out_channels == kept.out_channels > free.group1[0].conv1.out_channels


@pytest.mark.parametrize("importance", IMPORTANCES[1:])
def test_other_criteria_reach_a_size(importance, images):
    network = built("wrn-10-1")
    whole = sum(p.numel() for p in network.parameters())
    pruned, report = prune_to(network, images, whole // 2, importance=importance, labels=torch.arange(6) % 5)
    assert report.parameters_after == sum(p.numel() for p in pruned.parameters())
    assert report.parameters_after == pytest.approx(whole // 2, rel=0.1)
    assert pruned(images).shape == (6, 5)
    assert sum(p.numel() for p in network.parameters()) == whole


def test_bad_requests_are_refused(images):
    network = built("wrn-10-1")
    for settings, message in (
        ({"importance": "activations"}, "no importance 'activations'"),
        ({"pruning_ratio": 1.0}, "less than 1"),
        ({"importance": "taylor"}, "labels"),
    ):
        with pytest.raises(InputError, match=message):
            prune(network, images, **settings)
    with pytest.raises(InputError, match="cannot prune to 0 parameters"):
        prune_to(network, images, 0)
    with pytest.raises(InputError, match="no network 'resnet19'"):
        built("resnet19")
    with pytest.raises(InputError, match=r"6 n \+ 4"):
        built("wrn-15-1")


def test_a_file_with_widths_that_do_not_fit_is_refused(images, tmp_path):
    network = built("wrn-10-1")
    network.group2[0].conv1 = nn.Conv2d(16, 9, 3, 2, 1, bias=False)  # what follows expects 32
    save_network(network, tmp_path / "net.safetensors")
    with pytest.raises(InputError, match="cannot load a network"):
        load_network(tmp_path / "net.safetensors")
    with pytest.raises(InputError, match="only networks that a recipe names"):
        save_network(Own(), tmp_path / "own.safetensors")
