from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from pocketstep.networks import Architecture, BlockShape, ResidualNet
from pocketstep.weights import load_network, save_network
from pocketstep_device.errors import InputError

UNEVEN = Architecture(
    classes=4,
    in_channels=3,
    stem=5,
    groups=((BlockShape(5, 3, 5, 1, False),), (BlockShape(5, 7, 6, 2, True), BlockShape(6, 2, 6, 1, False))),
)


def test_the_forward_pass_is_that_of_its_modules():
    model = ResidualNet(3, 1, (4, 6), blocks=2).eval()
    images = torch.randn(2, 1, 8, 8)
    maps = torch.relu(model.stem[1](model.stem[0](images)))
    for block in (*model.group1, *model.group2):
        inner = torch.relu(block.bn1(block.conv1(maps)))
        maps = torch.relu(block.bn2(block.conv2(inner)) + block.shortcut(maps))
    assert maps.shape == (2, 6, 4, 4)
    torch.testing.assert_close(model(images), model.head(maps.mean((2, 3))))


def test_only_changing_blocks_have_a_shortcut_convolution():
    model = ResidualNet(3, 1, (4, 6, 6), blocks=2)
    plain = [[isinstance(block.shortcut, nn.Identity) for block in group] for group in model.blocks]
    assert plain == [[True, True], [False, True], [False, True]]
    assert [group[0].conv1.stride for group in model.blocks] == [(1, 1), (2, 2), (2, 2)]


def test_the_seed_decides_the_weights_and_nothing_else_moves():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, same, other = (ResidualNet(3, widths=(4,), blocks=1, seed=s) for s in (1, 1, 2))
    assert torch.rand(1) == expected
    assert torch.equal(one.head.weight, same.head.weight)
    assert not torch.equal(one.head.weight, other.head.weight)


def test_any_widths_can_be_built_and_read_back():
    model = ResidualNet.from_architecture(UNEVEN)
    assert model.architecture == UNEVEN
    assert model(torch.randn(2, 3, 8, 8)).shape == (2, 4)


def test_round_trip_through_a_file(tmp_path):
    model = ResidualNet.from_architecture(UNEVEN, seed=3)
    images = torch.randn(4, 3, 8, 8)
    model(images)  # moves the running statistics away from their start
    path = tmp_path / "net.safetensors"
    save_network(model, path)
    again = load_network(path)
    assert again.architecture == UNEVEN
    assert not again.training
    assert all(p.requires_grad for p in again.parameters())
    assert torch.equal(again(images), model.eval()(images))


def test_files_that_are_no_network_are_refused(tmp_path):
    path = tmp_path / "net.safetensors"
    with pytest.raises(InputError, match="cannot load"):
        load_network(path)
    path.write_bytes(b"not a safetensors file")
    with pytest.raises(InputError, match="cannot load"):
        load_network(path)
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(InputError, match="architecture"):
        load_network(path)


def test_weights_of_other_shapes_are_refused(tmp_path):
    path = tmp_path / "net.safetensors"
    model = ResidualNet(3, widths=(4,), blocks=1)
    description = {"classes": 3, "in_channels": 1, "stem": 8, "groups": [[[8, 8, 8, 1, False]]]}
    keys = ("inputs", "middle", "outputs", "stride", "projected")
    description["groups"] = [[dict(zip(keys, shape, strict=True)) for shape in g] for g in description["groups"]]
    save_file(model.state_dict(), path, metadata={"architecture": json.dumps(description)})
    with pytest.raises(InputError, match="size mismatch"):
        load_network(path)


def test_a_missing_tensor_is_refused(tmp_path):
    path = tmp_path / "net.safetensors"
    model = ResidualNet(3, widths=(4,), blocks=1)
    save_network(model, path)
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    tensors = {name: t for name, t in model.state_dict().items() if name != "head.bias"}
    save_file(tensors, path, metadata=header)
    with pytest.raises(InputError, match=r"head\.bias"):
        load_network(path)


@pytest.mark.parametrize("arguments", [{"widths": ()}, {"widths": (0,)}, {"blocks": 0}, {"classes": 0}])
def test_impossible_sizes_are_refused(arguments):
    with pytest.raises(InputError, match="cannot build"):
        ResidualNet(**{"classes": 3, **arguments})


@pytest.mark.parametrize(
    "shape", [BlockShape(4, 4, 4, 1, False), BlockShape(5, 4, 6, 1, False), BlockShape(5, 4, 5, 2, False)]
)
def test_blocks_that_do_not_fit_are_refused(shape):
    with pytest.raises(InputError, match="on 5 channels"):
        ResidualNet.from_architecture(Architecture(2, 1, 5, ((shape,),)))
