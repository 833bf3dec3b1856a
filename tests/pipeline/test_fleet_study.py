"""`pocketstep bench fleet`: which rows are measured, kept and shown; the digits' whole study is slow."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pocketstep.bench.fleet.growth import base_recipe
from pocketstep.bench.fleet.latency import latencies
from pocketstep.bench.fleet.study import FleetStudy
from pocketstep.bench.fleet.tables import draw, tables
from pocketstep.console import Console
from pocketstep.data import Dataset
from pocketstep.networks import ResidualNet
from pocketstep.recipe import load_recipe
from pocketstep.stages import load_material
from pocketstep_device.errors import InputError


def made_up() -> dict[str, Any]:
    """Rows as the study writes them."""
    done = {"used": 2, "own_accuracy": 0.7}
    fleet = {"clients": 4, "bytes_up_each": 2048.0, "of_whole": 0.09, "rounds": [done, {**done, "own_accuracy": None}]}
    sizes = {"bytes": 4000, "macs": 1000, "milliseconds": 1.0, "litert_bytes": 5000, "litert_milliseconds": 0.5}
    half = {name: value / 2 if "milli" in name else value // 2 for name, value in sizes.items()}
    points = [
        {"class": "", "old": 0.5, "new": None, "accepted": True},
        {"class": "cat", "old": 0.4, "new": 0.6, "accepted": True},
        {"class": "dog", "old": 0.3, "new": 0.5, "accepted": False},
    ]
    return {
        "rows": {
            "rounds": [
                {**fleet, "method": "critical-paths", "accuracy": [0.5, 0.55, 0.575]},
                {**fleet, "method": "fedavg", "accuracy": [0.5, 0.51, 0.49]},
            ],
            "single": [{"class": "cat", "all_images": 0.97, "per_class_mean": 0.9}],
            "specialised": [
                {
                    "classes": ["cat", "dog"], "accuracy": {"per_class_mean": 0.8, "whole_network": 0.79},
                    "networks": {"whole": sizes, "decoupled": sizes, "specialised": half},
                }
            ],
            "growth": [
                {"base": "cifar100", "base_classes": n, "method": m, "points": points}
                for n in (10, 20) for m in ("auto", "enhance")
            ],
        }
    }  # fmt: skip


def text_of(table: Any) -> str:
    from rich.console import Console as Rich

    console = Rich(width=200, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_tables_and_plots_show_what_was_measured(tmp_path: Path) -> None:
    found = made_up()
    rounds, single, special, growth = map(text_of, tables(found))
    assert "+7.5" in rounds and "-1.0" in rounds and "9.0%" in rounds  # noqa: PT018
    assert "97.0%" in single
    assert "50%" in special
    assert growth.count("30.0% / 50.0%") == 4
    drawn = draw(found, tmp_path)
    assert [path.name for path in drawn] == ["rounds.png", "growth.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)
    assert draw({"rows": {"single": found["rows"]["single"]}}, tmp_path) == []


def test_a_row_is_measured_again_only_when_what_decides_it_changed(tmp_path: Path) -> None:
    with Console(quiet=True) as console:
        study = FleetStudy("digits-paths", tmp_path, "", console)
        asked: list[int] = []

        def make() -> dict[str, Any]:
            asked.append(1)
            return {"accuracy": 0.5}

        assert study.row("a", make, study.recipe.plan)["accuracy"] == 0.5
        assert study.row("a", make, study.recipe.plan)["name"] == "a"
        assert len(asked) == 1
        study.row("a", make, replace(study.recipe.plan, batch=8))
        assert len(asked) == 2
        assert json.loads((tmp_path / "rows" / "a.json").read_text())["accuracy"] == 0.5


def test_a_base_has_a_spare_path_for_each_class_to_come() -> None:
    recipe = load_recipe("cifar10-fleet-alexnet")
    assert recipe.measures
    assert recipe.measures.growth
    made = base_recipe(recipe, recipe.measures.growth, 20)
    assert (made.data.name, made.data.cloud_classes, made.data.cloud_images) == ("cifar100", 20, 0)
    assert made.decouple
    assert made.decouple.spare_paths == made.plan.spare_classes == 7
    assert made.teacher.epochs == recipe.measures.growth.epochs


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('baselines = ["fedavg"]', 'baselines = ["fedprox"]', "measures.baselines is 'fedprox'"),
        ('methods = ["enhance", "auto"]', 'methods = ["magic"]', "measures.growth.methods is 'magic'"),
        ("base_classes = [5]", "base_classes = [1]", "measures.growth.base_classes is 1"),
        ("rounds = 3", "rounds = 3\nnoise = -1.0", "fleet.noise is -1"),
        ("held_back = 0.1", "held_back = 0.1\ncloud_images = -5", "data.cloud_images is -5"),
    ],
)
def test_recipes_that_make_no_sense_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = (Path(__file__).parents[2] / "models" / "digits-paths.toml").read_text()
    assert old in text
    (tmp_path / "wrong.toml").write_text(text.replace(old, new))
    with pytest.raises(InputError, match=message):
        load_recipe(tmp_path / "wrong.toml")


def test_devices_see_what_the_cloud_does_not_have() -> None:
    recipe = load_recipe("digits-paths")
    recipe = replace(recipe, data=replace(recipe.data, cloud_images=30, cloud_classes=10))
    material = load_material(recipe)
    assert np.bincount(material.cloud.labels).tolist() == [27] * 10
    assert np.bincount(material.held_back.labels).tolist() == [3] * 10
    kept = {image.tobytes() for part in (material.cloud, material.held_back) for image in part.images}
    assert len(material.elsewhere) == len(material.train) - 300
    assert not kept & {image.tobytes() for image in material.elsewhere.images}
    with pytest.raises(InputError, match="leave some"):
        load_material(replace(recipe, data=replace(recipe.data, cloud_images=5000)))
    with pytest.raises(InputError, match="leave at least one"):  # without a fleet there is a class for the device
        load_material(replace(recipe, fleet=None, measures=None))


@pytest.mark.slow
def test_the_digits_study(tmp_path: Path) -> None:
    """Every part once, and again from what was kept."""
    recipe = tmp_path / "mine.toml"
    text = (Path(__file__).parents[2] / "models" / "digits-paths.toml").read_text()
    recipe.write_text(text.replace("clients = 8\nrounds = 3", "clients = 3\nrounds = 1"))
    with Console(quiet=True) as console:
        found = FleetStudy(str(recipe), tmp_path / "out", "", console).measure(
            ("rounds", "single", "specialised", "growth")
        )
        again = FleetStudy(str(recipe), tmp_path / "out", "", console).measure(("rounds", "single"))
    assert again["rows"]["rounds"] == found["rows"]["rounds"]
    assert [row["method"] for row in found["rows"]["rounds"]] == ["critical-paths", "fedavg"]
    assert found["rows"]["rounds"][0]["of_whole"] < found["rows"]["rounds"][1]["of_whole"]
    assert len(found["rows"]["single"]) == 9
    assert max(row["all_images"] for row in found["rows"]["single"]) > 0.97
    sizes = found["rows"]["specialised"][0]["networks"]
    assert sizes["specialised"]["litert_bytes"] < sizes["whole"]["litert_bytes"]
    grown = {row["method"]: row["points"] for row in found["rows"]["growth"]}
    assert grown.keys() == {"enhance", "auto"}
    for points in grown.values():
        assert [p["class"] for p in points] == ["", "5", "6"]
    assert grown["auto"][-1]["new"] > 0.8


@pytest.mark.slow
def test_programs_are_timed_as_what_the_networks_are(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (20, 16, 16, 3), dtype=np.uint8)
    data = Dataset(images, np.arange(20) % 2, ("a", "b"))
    networks = {"small": ResidualNet(2, 3, (4, 8), 1), "large": ResidualNet(2, 3, (32, 64), 1)}
    found = latencies(networks, data, tmp_path / "programs")
    assert found["small"]["litert_bytes"] < found["large"]["litert_bytes"]
    assert found["small"]["litert_milliseconds"] > 0
