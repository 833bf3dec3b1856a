"""Critical paths: what is split, what a path is, what is left of the rest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pocketstep.architectures import Blueprint, build_network
from pocketstep.data import Dataset
from pocketstep.decouple import stage
from pocketstep.decouple.finetune import one_against_all
from pocketstep.decouple.paths import choose_paths, parse_setting
from pocketstep.decouple.region import Region, find_region
from pocketstep.decouple.scores import Scores, score_filters
from pocketstep.decouple.specialise import specialise
from pocketstep.decouple.stage import specialised
from pocketstep.decouple.surgery import decouple, head_mask, need_decoupling, only_paths_trained
from pocketstep.networks import ResidualNet
from pocketstep.recipe import load_recipe
from pocketstep.stages import Material
from pocketstep.weights import load_network, save_network
from pocketstep_device.errors import InputError

CLASSES, SPARE = tuple("abcd"), 2
NETWORKS = {
    "vgg16-0.125": "features.34",
    "alexnet-0.25": "features.6",
    "resnet18": "layer4.0.conv1",  # not layer4.1: its shortcut has no weights
    "mobilenet_v2": "features.17.conv.0.0",  # not the depthwise one in the block's middle
    "wrn-10-1": "group2.0.conv1",
    "own": "group3.0.conv1",
}
"""Of each architecture, where the last three convolutions' paths begin."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def sized(data: Dataset, name: str) -> Dataset:
    """Smaller images for the networks that halve them less."""
    small = not name.startswith(("vgg", "alexnet"))
    return Dataset(np.ascontiguousarray(data.images[:, ::2, ::2]), data.labels, data.classes) if small else data


def network(name: str, data: Dataset) -> nn.Module:
    if name == "own":
        return ResidualNet(len(CLASSES), 3, (4, 8, 16), 2).eval()
    model = build_network(Blueprint(name, len(CLASSES), 3, data.images.shape[1:3])).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model


@pytest.fixture(scope="module")
def data() -> Dataset:
    rng = np.random.default_rng(0)
    return Dataset(rng.integers(0, 255, (8, 32, 32, 3)).astype(np.uint8), np.arange(8) % 4, CLASSES)


def floats(images: Any) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 128 - 1


def split(model: nn.Module, data: Dataset, layers: int = 3, share: float = 0.2) -> tuple[Region, nn.Module]:
    region = find_region(model, layers, floats(data.images[:1]))
    paths = choose_paths(region, score_filters(region, data, floats), share)
    return region, decouple(model, region, paths, CLASSES, spare=SPARE)


@pytest.mark.parametrize(("name", "begins"), NETWORKS.items())
def test_every_architecture(name: str, begins: str, data: Dataset, tmp_path: Path) -> None:
    """Paths begin where they can, are independent to the bit, and cut out give the whole network's logits."""
    data = sized(data, name)
    region, model = split(network(name, data), data)
    assert region.layers[0] == begins
    assert begins in region.dense
    found, images = need_decoupling(model), floats(data.images[:2])
    before = model(images)
    part = specialise(model, ["c", "a"], spare=1)
    torch.testing.assert_close(part(images), before[:, [2, 0]], rtol=1e-4, atol=1e-5)
    assert sum(p.numel() for p in part.parameters()) < sum(p.numel() for p in model.parameters())
    for number, whole in enumerate((model, part)):
        save_network(whole, tmp_path / f"{number}.safetensors")
        again = load_network(tmp_path / f"{number}.safetensors")
        assert need_decoupling(again) == need_decoupling(whole)
        torch.testing.assert_close(again(images), whole(images))
    with torch.no_grad():
        for layer in (*found.layers, *found.norms):
            for parameter in model.get_submodule(layer).parameters():
                parameter[len(parameter) // found.paths :] += 1.0  # all but path 0
        model.get_submodule(found.head).weight[1:] *= 2
    after = model(images)
    assert torch.equal(after[:, 0], before[:, 0])
    assert not torch.allclose(after[:, 1:], before[:, 1:])


def test_a_path_with_all_filters_is_the_network_but_for_the_head(data: Dataset) -> None:
    """Every path with every filter computes the features of the network it was cut from."""
    data = sized(data, "wrn-10-1")
    model = network("wrn-10-1", data)
    region = find_region(model, 3, floats(data.images[:1]))
    paths = choose_paths(region, score_filters(region, data, floats), 1.0)
    whole = decouple(model, region, paths, CLASSES)
    images = floats(data.images[:2])
    # the first split layers see all of the map and each path has every filter, so that nothing is lost
    torch.testing.assert_close(whole(images), model(images), rtol=1e-3, atol=1e-4)


def test_scores_are_what_they_say(data: Dataset) -> None:
    """Against a network small enough to differentiate by hand: a filter's contribution is weight times activation."""
    body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
    model = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)).eval()
    region = find_region(model, 1, floats(data.images[:1]))
    found = score_filters(region, data, floats)[0]
    for label in range(4):
        means = body(floats(data.images[data.labels == label])).mean((0, 2, 3))
        torch.testing.assert_close(found.activation[label], means)
        torch.testing.assert_close(found.contribution[label], means * model[4].weight[label])


def test_both_criteria_count_and_are_compared() -> None:
    a, b = torch.tensor([[3.0, 2.0, 1.0, 0.0]]), torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    assert Scores(a, a).agreement().item() == pytest.approx(1)
    assert Scores(a, b).agreement().item() == pytest.approx(-1)
    assert Scores(a, b).overlap(2).item() == 0
    assert Scores(a, a).ranks.argmax(1).item() == 0
    assert Scores(a, torch.tensor([[2.0, 9.0, 0.0, 1.0]])).ranks.argmax(1).item() in (0, 1)


def test_shared_layers_and_foreign_parts_of_the_head_never_move(data: Dataset) -> None:
    _, model = split(network("alexnet-0.25", data), data)
    found = need_decoupling(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with only_paths_trained(model):
        optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1, weight_decay=0.01)
        nn.functional.cross_entropy(model(floats(data.images)), torch.from_numpy(data.labels)).backward()
        optimiser.step()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.rpartition(".")[0] for name in moved} == {*found.layers, found.head}
    head = model.get_submodule(found.head)
    assert torch.count_nonzero(head.weight * (1 - head_mask(head, found))) == 0
    assert all(p.requires_grad for p in model.parameters())


def test_one_against_all(data: Dataset) -> None:
    _, model = split(network("alexnet-0.25", data), data)
    single = specialise(model, ["b"])
    images = floats(data.images[:3])
    outputs = single(images)
    assert need_decoupling(single).outputs == ("b", "other")
    torch.testing.assert_close(outputs[:, 0], model(images)[:, 1], rtol=1e-4, atol=1e-5)
    assert torch.count_nonzero(outputs[:, 1]) == 0
    relabelled = one_against_all(data, "b")
    assert relabelled.labels.tolist() == [int(c != 1) for c in data.labels]


@pytest.mark.parametrize("sure", [0.0, 50.0])
def test_a_single_path_is_judged_with_how_frequent_its_class_is(
    data: Dataset, monkeypatch: pytest.MonkeyPatch, sure: float
) -> None:
    """A path that knows nothing says "other", which three of four images are; one that is sure of its class says so."""
    _, model = split(network("alexnet-0.25", data), data)
    head = model.get_submodule(need_decoupling(model).head)
    for parameter in head.parameters():
        nn.init.zeros_(parameter)
    with torch.no_grad():
        head.bias.fill_(sure)  # type: ignore[operator, union-attr]
    monkeypatch.setattr(stage, "fine_tune", lambda *given, **more: None)
    recipe = load_recipe("digits-paths")
    material = Material(data, data, data, data, data, data)
    _, found = specialised(recipe, material, model, ["b"])
    assert found == {"per_class_mean": 0.5, "all_images": 0.25 if sure else 0.75}


@pytest.mark.parametrize("text", ["4", "0_4%", "3_0%", "3_101%", "3-4", ""])
def test_bad_settings(text: str) -> None:
    with pytest.raises(InputError, match="LAYERS_PERCENT"):
        parse_setting(text)


def test_what_cannot_be_split_says_why(data: Dataset) -> None:
    assert parse_setting("3_4%") == (3, 0.04)
    image = floats(data.images[:1])
    hidden = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 8), nn.Linear(8, 4))
    with pytest.raises(InputError, match="hidden linear layer"):
        find_region(hidden, 1, image)
    with pytest.raises(InputError, match="the network has 13"):
        find_region(network("own", data), 99, image)
    _, model = split(network("own", data), data)
    with pytest.raises(InputError, match="no path of 'x'"):
        specialise(model, ["x"])
    with pytest.raises(InputError, match="once"):
        specialise(model, ["a", "a"])


def test_the_recipes_stage(digits: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    """Split, fine-tuned back and cut out, as the command does."""
    from pocketstep.decouple.stage import decouple_stage, figures, specialised
    from pocketstep.recipe import load_recipe
    from pocketstep.stages import load_material, train_teacher

    recipe = load_recipe("digits-paths")
    assert recipe.decouple
    recipe = replace(
        recipe,
        teacher=replace(recipe.teacher, epochs=4, widths=(8, 16, 32)),
        decouple=replace(recipe.decouple, epochs=3, setting="2_20%"),
    )
    material = load_material(recipe)
    teacher = train_teacher(recipe, material).network
    made = decouple_stage(recipe, material, teacher)
    accuracy = made.report["accuracy"]
    assert accuracy["tuned"] > max(accuracy["split"], accuracy["whole"] - 0.05)
    part, found = specialised(recipe, material, made.network, ["3", "5"])
    assert found["per_class_mean"] == pytest.approx(found["whole_network"])
    assert found["per_class_mean"] > 0.95
    sizes = figures({"whole": teacher, "part": part}, material.cloud_test)
    assert sizes["part"]["parameters"] < sizes["whole"]["parameters"]
    assert sizes["part"]["macs"] < sizes["whole"]["macs"]
