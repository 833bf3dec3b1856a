from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pocketstep.recipe import Recipe, load_recipe
from pocketstep_device.errors import InputError

BUNDLED = Path(__file__).parents[2] / "models" / "digits.toml"


def edited(tmp_path: Path, old: str, new: str) -> Path:
    """The digits' recipe with one line replaced, found by how it begins within its section."""
    section, key = old.split(".") if "." in old else ("", old)
    lines, current, replaced = [], "", 0
    for line in BUNDLED.read_text().splitlines():
        if line.startswith("["):
            current = line.strip("[] ")
        if current == section and line.split("=")[0].strip() == key:
            line, replaced = new, replaced + 1
        lines.append(line)
    assert replaced == 1, old
    path = tmp_path / "mine.toml"
    path.write_text("\n".join(lines))
    return path


def test_digits() -> None:
    recipe = load_recipe("digits")
    assert recipe == dataclasses.replace(load_recipe(BUNDLED))
    assert isinstance(recipe, Recipe)
    assert recipe.name == "digits"
    assert recipe.data.cloud_classes == 9
    assert recipe.teacher.widths == (16, 32, 64)
    assert recipe.transfer.weights == (0.1, 0.1, 1.0)
    assert recipe.plan.preset == "centre"
    assert 0 < recipe.data.held_back < 1


def test_numbers_without_a_point_are_numbers(tmp_path: Path) -> None:
    recipe = load_recipe(edited(tmp_path, "transfer.weights", "weights = [1, 0, 2]"))
    assert recipe.transfer.weights == (1.0, 0.0, 2.0)
    assert all(type(weight) is float for weight in recipe.transfer.weights)
    assert recipe.name == "mine"


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("data.size", 'size = "16"'),
        ("data.size", "size = 16.0"),
        ("data.name", "name = 3"),
        ("data.seed", "seed = true"),
        ("teacher.augment", "augment = 1"),
        ("teacher.widths", "widths = 16"),
        ("teacher.widths", 'widths = [16, "32"]'),
        ("teacher.learning_rate", 'learning_rate = "fast"'),
        ("teacher.learning_rate", "learning_rate = true"),
        ("transfer.weights", "weights = [0.1, [1], 1.0]"),
        ("plan.cut", "cut = false"),
    ],
)
def test_wrong_type(tmp_path: Path, key: str, line: str) -> None:
    with pytest.raises(InputError, match=rf"the recipe's {key} is .*; it must be "):
        load_recipe(edited(tmp_path, key, line))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.cloud_classes", "1"),
        ("compress.threshold", "0.4"),
        ("compress.threshold", "1.01"),
        ("compress.threshold", "nan"),
        ("plan.spare_classes", "0"),
        ("plan.spare_classes", "-3"),
        ("plan.batch", "0"),
        ("plan.batch", "100000"),
        ("replay.per_class", "1"),
        ("data.held_back", "0.0"),
        ("data.held_back", "1.0"),
    ],
)
def test_out_of_range(tmp_path: Path, key: str, value: str) -> None:
    with pytest.raises(InputError, match=rf"the recipe's {key} is .* must lie between"):
        load_recipe(edited(tmp_path, key, f"{key.split('.')[1]} = {value}"))


@pytest.mark.parametrize("key", ["teacher.epochs", "replay.per_class", "plan.preset", "data.name"])
def test_missing_key(tmp_path: Path, key: str) -> None:
    section, name = key.split(".")
    with pytest.raises(InputError, match=rf"a missing key '{name}' in \[{section}\]"):
        load_recipe(edited(tmp_path, key, ""))


def test_unknown_keys_and_sections(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"an unknown key 'epoch' in \[teacher\]"):
        load_recipe(edited(tmp_path, "teacher.epochs", "epoch = 3\nepochs = 3"))
    path = tmp_path / "more.toml"
    path.write_text(BUNDLED.read_text() + "\n[extra]\nx = 1\n")
    with pytest.raises(InputError, match=r"an unknown key 'extra' in \[top level\]"):
        load_recipe(path)
    path.write_text(BUNDLED.read_text().split("[replay]")[0])
    with pytest.raises(InputError, match=r"a missing key 'replay' in \[top level\]"):
        load_recipe(path)
    path.write_text("replay = 3\n" + BUNDLED.read_text().split("[replay]")[0])
    with pytest.raises(InputError, match="'replay' must be a table"):
        load_recipe(path)


def test_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no recipe mugs; give a \.toml file, or 'digits'"):
        load_recipe("mugs")
    with pytest.raises(InputError, match=r"there is no recipe .*gone"):
        load_recipe(tmp_path / "gone.toml")
    for content in (b"[data\n", b"\xff\xfe", b"a = 1\na = 2\n"):
        (tmp_path / "bad.toml").write_bytes(content)
        with pytest.raises(InputError, match="no readable TOML file"):
            load_recipe(tmp_path / "bad.toml")
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(InputError, match="no readable TOML file"):
        load_recipe(tmp_path / "folder.toml")
