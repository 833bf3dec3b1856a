"""``pocketstep export``: a user's module, weights, names and pictures."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from pocketstep.cli import app
from pocketstep.cli_export import _pictures
from pocketstep.pictures import load_folder
from pocketstep.request import Request
from pocketstep.user_model import default_normalisation, input_size, load_model, read_classes
from pocketstep_device import Learner
from pocketstep_device.bundle import Bundle
from pocketstep_device.errors import InputError
from pocketstep_device.golden import replay
from pocketstep_device.machine import Machine

NETWORK = """
import torch
from torch import nn

class Tiny(nn.Module):
    def __init__(self, num_classes: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.middle, self.last = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 2, 1)
        self.head = nn.Linear(8, num_classes)

    def forward(self, x):
        x = torch.relu(self.last(torch.relu(self.middle(torch.relu(self.stem(x))))))
        return self.head(x.mean((2, 3)))

def broken():
    raise OSError("no weights here")

number = 3
"""


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module, class names and pictures, and we are in it."""
    (tmp_path / "users_network.py").write_text(NETWORK)
    (tmp_path / "names.txt").write_text("red\ngreen\n\n")
    generator = np.random.default_rng(0)
    for channel, name in enumerate(("red", "green", "blue")):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for index in range(12):
            pixels = generator.integers(0, 90, (20, 24, 3), dtype=np.uint8)
            pixels[..., channel] += 150
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{index}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("users_network", None)
    return tmp_path


COMMAND = ["export", "--model", "users_network:Tiny", "--input", "3,16,16", "--classes", "names.txt", "-o", "b.bundle"]


def test_your_own_network_learns_a_class(workplace: Path) -> None:
    """From a factory and a folder of pictures to a device that knows one more class."""
    options = ["--images", "pictures", "--plan", "last", "--spare-classes", "2", "--batch", "8", "--runtime", "litert"]
    done = CliRunner().invoke(app, [*COMMAND, *options, "--int8-prefix", "--json"])
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert facts["cost"]["macs.step"] > 0
    bundle = Bundle.open(workplace / "b.bundle")
    assert list(bundle.manifest.runtimes) == ["litert"]
    worst = max(call.worst for call in replay(bundle, Machine(bundle, "litert", 1)))
    print(f"largest relative error {worst:.1e}")
    assert worst <= 1e-4
    blue = load_folder(workplace / "pictures", (16, 16), 3, ["blue", "red", "green"])
    with Learner.open(workplace / "b.bundle", workplace / "state") as learner:
        learner.add_class("blue")
        learner.observe(blue.images[:12], "blue")
        report = learner.update()
        labels = learner.classify(blue.images).labels
    assert report.accepted
    right = [label == blue.classes[index] for label, index in zip(labels, blue.labels, strict=True)]
    assert sum(right) >= 30, labels


def test_no_picture_goes_along(workplace: Path) -> None:
    """With ``--replay 0``: all of them make the closed form's statistics, none judges."""
    request = Request("b", ("red", "green"), (16, 16, 3), (0.5,) * 3, (0.5,) * 3)
    shown, judging = _pictures(workplace / "pictures", replace(request, replay_per_class=0), 0.2)
    assert shown is not None
    assert (len(shown), judging) == (24, None)
    shown, judging = _pictures(workplace / "pictures", request, 0.25)
    assert shown is not None
    assert judging is not None
    assert (len(shown), len(judging)) == (18, 6)


def test_without_pictures_it_says_what_is_missing(workplace: Path) -> None:
    options = [
        "--train",
        "last=centre",
        "--input-gradient",
        "centre",
        "--optimiser",
        "adamw",
        "--clip",
        "--directions",
        "8",
    ]
    done = CliRunner().invoke(app, [*COMMAND, *options, "--runtime", "litert", "--batch", "8"])
    assert done.exit_code == 0, done.output
    assert "nothing to replay" in done.output
    bundle = Bundle.open(workplace / "b.bundle")
    assert max(call.worst for call in replay(bundle, Machine(bundle, "litert", 1))) <= 1e-4
    with Learner.open(workplace / "b.bundle", workplace / "state") as learner:
        learner.add_class("blue")
        seen = np.random.default_rng(0).integers(60, 140, (10, 16, 16, 3), dtype=np.uint8)
        learner.observe(seen, "blue")
        learner.update()
        assert learner.classify(seen[:1]).labels == ["blue"]


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("users_network", "is no module:factory"),
        ("nowhere_at_all:Tiny", "cannot import 'nowhere_at_all'"),
        ("users_network:Small", "'users_network' has no 'Small'"),
        ("users_network:broken", "OSError: no weights here"),
        ("users_network:number", "neither a module nor something to call"),
        ("json:dumps", "failed"),
        ("builtins:dict", "gives dict, not a torch.nn.Module"),
    ],
)
def test_factories_that_do_not_work(workplace: Path, factory: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_model(factory, None, 2)


def test_weights_are_loaded_or_refused(workplace: Path) -> None:
    model = load_model("users_network:Tiny", None, 2)
    tensors = {name: value + 1 for name, value in model.state_dict().items()}
    save_file(tensors, workplace / "w.safetensors")
    loaded = load_model("users_network:Tiny", workplace / "w.safetensors", 2)
    assert all((loaded.state_dict()[name] == value).all() for name, value in tensors.items())
    with pytest.raises(InputError, match=r"do not fit the network: size mismatch for head\.bias"):
        load_model("users_network:Tiny", workplace / "w.safetensors", 5)
    (workplace / "bad.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(InputError, match=r"no readable \.safetensors file"):
        load_model("users_network:Tiny", workplace / "bad.safetensors", 2)


@pytest.mark.parametrize(("content", "message"), [("one\n", "it has 1 names"), ("a\nb\na\n", "'a' stands there twice")])
def test_class_names_are_checked(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "names.txt").write_text(content)
    with pytest.raises(InputError, match=message):
        read_classes(tmp_path / "names.txt")
    with pytest.raises(InputError, match="cannot read class names"):
        read_classes(tmp_path / "none.txt")


@pytest.mark.parametrize("text", ["3,224", "2,8,8", "3,x,8", "3,0,8", "3,8.5,8"])
def test_input_sizes_are_checked(text: str) -> None:
    with pytest.raises(InputError):
        input_size(text)


def test_input_size_and_normalisation() -> None:
    assert input_size("1,8,16") == (8, 16, 1)
    assert default_normalisation(3)[0] == (0.485, 0.456, 0.406)
    assert default_normalisation(1) == ((0.5,), (0.5,))


def test_pictures_are_scaled_cropped_and_checked(workplace: Path) -> None:
    data = load_folder("pictures", (16, 12), 1, ["green", "red"])
    assert data.images.shape == (24, 16, 12, 1)
    assert data.labels.tolist() == [0] * 12 + [1] * 12
    with pytest.raises(InputError, match="holds no pictures"):
        load_folder("pictures", (16, 16), 3, ["red", "yellow"])
    (workplace / "pictures" / "red" / "broken.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"broken\.png is no readable picture"):
        load_folder("pictures", (16, 16), 3, ["red"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--train", "last"], "must be PATTERN=ROLE"),
        (["--train", "stem.conv=full"], "matches no module"),
        (["--runtime", "tensorrt"], "unknown runtime tensorrt"),
        (["--mean", "0.5"], "images have 3 channels"),
        (["--optimiser", "lion"], "unknown optimiser 'lion'"),
        (["--batch", "0"], "batch is 0"),
        (["--cut", "nowhere"], "no module 'nowhere'"),
    ],
)
def test_wrong_use_is_said_before_minutes_pass(workplace: Path, options: list[str], message: str) -> None:
    done = CliRunner().invoke(app, [*COMMAND, "--runtime", "litert", *options])
    assert isinstance(done.exception, InputError), done.output
    assert message in str(done.exception)
