"""The networks that streams begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coloured import images

from pocketstep.bench.accuracy import recipe as recipes
from pocketstep.bench.accuracy.base import Beside, Teacher, architecture, base_network, upright_head
from pocketstep.bench.accuracy.material import Material, Settings
from pocketstep.bench.accuracy.preparing import Turned
from pocketstep.bench.accuracy.run import Order, bases
from pocketstep.bench.accuracy.stream import Protocol
from pocketstep.networks import ResidualNet


def test_turned_images_have_labels_of_their_own() -> None:
    """What is not turned keeps the class's own row; every turn by a quarter is one block of rows further."""
    seen: list[torch.Tensor] = []

    class Perfect(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            corner = x[:, 0].flatten(1)[:, [0, 8, 2, 6]]  # where the only bright pixel went: none, half, right, left
            turns = torch.tensor([0, 2, 3, 1])[corner.argmax(1)]
            return torch.nn.functional.one_hot(turns * 5 + 3, 20).float() * 50

    x = torch.zeros(64, 1, 3, 3)
    x[:, :, 0, 0] = 1
    loss = Turned(5, 0.0, torch.Generator().manual_seed(0))(Perfect(), x, torch.full((64,), 3))
    assert loss < 1e-3
    upright = (seen[0] == x).flatten(1).all(1).float().mean()
    assert 0.3 < upright < 0.7


def test_base_is_trained_once(tmp_path: Path) -> None:
    said: list[str] = []
    train = images(20, 3, side=32)
    how: dict[str, Any] = {"network": "small", "epochs": 2, "seed": 0, "rotations": True, "smoothing": 0.0}
    how["tell"] = said.append
    first = base_network(train, tmp_path / "base.safetensors", **how)
    assert first.head.out_features == 3
    assert len(said) == 2
    again = base_network(train, tmp_path / "base.safetensors", **how)
    assert len(said) == 2
    assert torch.equal(first.head.weight, again.head.weight)
    assert upright_head(torch.nn.Linear(4, 12), 3).weight.shape == (3, 4)


def test_a_base_learns_other_images_too_and_forgets_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = images(30, 2, side=32, seed=3)
    monkeypatch.setattr("pocketstep.bench.accuracy.base.load_cifar", lambda folder, name, split: others)
    beside = Beside("cifar10", 20, tmp_path)
    joint = beside.added_to(images(5, 3, side=32))
    assert joint.classes == ("class 0", "class 1", "class 2", "class 0 of cifar10", "class 1 of cifar10")
    assert np.bincount(joint.labels).tolist() == [5, 5, 5, 20, 20]
    net = base_network(
        images(20, 3, side=32), tmp_path / "base.safetensors", network="small", epochs=1, seed=0, rotations=False,
        smoothing=0.0, tell=lambda text: None, beside=beside,
    )  # fmt: skip
    assert net.head.out_features == 3
    settings = Settings(first=3, beside=beside)
    assert Material(joint, joint, settings, tmp_path, print)._base_name.endswith("-cifar10-20-0")


def test_a_base_imitates_a_teacher_that_is_trained_once(tmp_path: Path) -> None:
    said: list[str] = []
    how: dict[str, Any] = {"network": "small", "epochs": 1, "seed": 0, "rotations": False, "smoothing": 0.0}
    how |= {"tell": said.append, "teacher": Teacher("small", 2)}
    data = images(20, 3, side=32)
    taught = base_network(data, tmp_path / "base.safetensors", **how)
    assert [line.split(",")[0] for line in said] == [
        "teacher of the base: epoch 1 of 2", "teacher of the base: epoch 2 of 2", "base: epoch 1 of 1",
    ]  # fmt: skip
    assert (tmp_path / "teacher-base.safetensors").exists()
    (tmp_path / "base.safetensors").unlink()
    again = base_network(data, tmp_path / "base.safetensors", **how)
    assert len(said) == 4
    assert torch.equal(taught.stem[0].weight, again.stem[0].weight)
    alone = base_network(data, tmp_path / "alone.safetensors", **{**how, "teacher": None})
    assert not torch.equal(taught.stem[0].weight, alone.stem[0].weight)
    settings = Settings(first=3, beside=Beside("cifar10", 20, tmp_path), teacher=Teacher("resnet18", 40))
    assert Material(data, data, settings, tmp_path, print)._base_name.endswith("-cifar10-20-resnet18-40-0")
    assert (settings.kind, Settings().kind) == ("beside cifar10, features of resnet18", "plain")


def test_bases_can_be_trained_apart(tmp_path: Path) -> None:
    """And are then found in the folder, whatever it was carried to."""
    train, test, said = images(150, 4, side=32), images(10, 4, side=32, seed=1), list[str]()
    order = Order(Protocol(2, 2), Settings(first=2, epochs=2, smoothing=0.0), ["closed-form"], seeds=2)
    found = bases(order, train, test, tmp_path, said.append)
    assert len(found) == 2
    assert min(found) >= 0.5
    assert sum("epoch" in line for line in said) == 4
    assert bases(order, train, test, tmp_path, said.append) == found
    assert sum("epoch" in line for line in said) == 4


def test_the_papers_network_is_resnet_18() -> None:
    with torch.device("meta"):
        net = ResidualNet.from_architecture(architecture("resnet18", 100))
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(11.2e6, rel=0.01)
    assert recipes.load("cifar100-b50-resnet18").settings(Path()).network == "resnet18"
