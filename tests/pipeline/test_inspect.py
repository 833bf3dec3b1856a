"""``pocketstep inspect``: facts, terminal tables and the page, also of long networks and hostile names."""

from __future__ import annotations

import copy
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from pocketstep.inspection import text
from pocketstep.inspection.facts import facts_of
from pocketstep.inspection.modules import modules_of, rows_of
from pocketstep.inspection.page import write_page
from pocketstep.inspection.tables import tables
from pocketstep_device.bundle import Bundle
from pocketstep_device.bundle_writer import write_bundle, zip_bundle
from pocketstep_device.manifest import Parameter, PathAxis, Plan

VOID = {"meta", "br", "wbr", "link"}
COST = {
    "macs.forward": 1000.0, "macs.prefix": 600.0, "macs.suffix": 400.0, "macs.input_gradients": 300.0,
    "macs.weight_gradients": 50.0, "macs.step": 750.0, "bytes.parameters": 4096.0, "bytes.activation": 2048.0,
}  # fmt: skip


def changed(bundle: Path, target: Path, **fields: Any) -> Bundle:
    """A copy with other fields in its manifest."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    files = {name: bundle / name for name in manifest.pop("files")}
    return write_bundle(target, {**manifest, **fields}, files)


def parameter(name: str, role: str = "frozen", *shape: int) -> Parameter:
    trained = role != "frozen"
    return Parameter(name, role, shape or (4, 4, 3, 3), trained, "body" if trained else None)  # type: ignore[arg-type]


def plan(cut: str, *parameters: Parameter) -> Plan:
    return Plan("centre", cut, parameters)


def printed(facts: dict[str, Any]) -> str:
    from rich.console import Console

    file = io.StringIO()
    console = Console(width=200, file=file)
    for part in tables(facts):
        console.print(part, markup=False)
    return file.getvalue().replace(text.SPACE, " ")


class Page(HTMLParser):
    """Checks that elements close in order; collects tags, attributes and text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text("utf-8")
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data.replace(text.SPACE, " ")


@pytest.fixture(scope="module")
def facts(bundle_path: Path) -> dict[str, Any]:
    return facts_of(Bundle.open(bundle_path))


def test_facts_are_the_manifests(bundle_path: Path, facts: dict[str, Any]) -> None:
    manifest = Bundle.open(bundle_path).manifest
    assert facts == json.loads(json.dumps(facts))
    assert facts["task"]["free"] == manifest.task.slots - len(manifest.task.classes)
    found = [p for module in facts["plan"]["modules"] for p in module["parameters"]]
    assert [p["name"] for p in found] == [p.name for p in manifest.plan.parameters]
    assert sum(role["parameters"] for role in facts["plan"]["roles"].values()) == len(found)
    assert {f["name"]: f["bytes"] for f in facts["files"]} == {n: e.bytes for n, e in manifest.files.items()}
    assert [s["name"] for s in facts["signatures"]][:2] == ["encode", "classify"]
    step = next(s for s in facts["signatures"] if s["name"] == "step")
    assert (step["batch"], step["inputs"]) == (32, len(manifest.signatures["step"].inputs))
    assert facts["device"]["latent_bytes"] == math.prod(manifest.latent.shape)
    assert 0 < facts["device"]["replay"]["held_back"] < facts["device"]["replay"]["samples"]
    state = sum(e.bytes for n, e in manifest.files.items() if n == "state.safetensors")
    assert 0 < state - facts["device"]["state_bytes"] < 8192  # the file's header
    delegated = next(r for r in facts["runtimes"] if r["name"] == "executorch")["delegated"]
    assert delegated["step"]["delegates"] >= 1
    assert delegated["step"]["outside"] >= 0


def test_critical_paths_are_drawn(facts: dict[str, Any], tmp_path: Path) -> None:
    made = Plan("head", "a", (parameter("a.weight"), parameter("b.weight", "full")), (PathAxis("b.taps", 0, 2),))
    assert [module["paths"] for module in modules_of(made)] == [False, True]
    found = copy.deepcopy(facts)
    whole = [m for m in found["plan"]["modules"] if m["role"] == "centre"]
    for split in (False, True):
        whole[0]["paths"] = split
        write_page(found, tmp_path / "page.html")
        page = Page(tmp_path / "page.html")
        assert ("critical paths, one a class" in page.text) == split
        assert sum(value == "band" for _, value in page.attributes) == 4 * split


def test_tables_say_it(facts: dict[str, Any]) -> None:
    shown = printed(facts)
    for words in ("9 classes and 3 free slots", "✂ cut", " int8", "group2.0.conv1.weight", "encode"):
        assert words in shown
    assert "held back" in shown
    for part in facts["schedules"] + facts["hyper"] + facts["files"] + facts["runtimes"] + facts["signatures"]:
        assert part["name"] in shown


def test_cost_is_shown_where_it_is_known(bundle_path: Path, facts: dict[str, Any], tmp_path: Path) -> None:
    old = facts_of(changed(bundle_path, tmp_path / "old.bundle", cost={}))
    new = facts_of(changed(bundle_path, tmp_path / "new.bundle", cost=COST))
    assert "forward_passes" not in old["cost"]
    assert new["cost"]["forward_passes"] == 0.75
    for found, has in ((old, False), (new, True)):
        write_page(found, tmp_path / "page.html")
        page = Page(tmp_path / "page.html")
        assert ("exact arithmetic" in printed(found)) == has
        assert ("exact arithmetic" in page.text) == has
        assert ("750 MACs" in page.text) == has
    assert "0.75" in printed(new)


def test_a_page_draws_every_module_and_loads_nothing(facts: dict[str, Any], tmp_path: Path) -> None:
    write_page(facts, tmp_path / "new" / "page.html")
    page = Page(tmp_path / "new" / "page.html")
    drawn = page.tags.count("svg")
    assert drawn == len(facts["plan"]["modules"]) + 3  # the image, the cut, the slots
    assert page.source.count('class="tap lit"') == sum(
        m["role"] in ("centre", "head") for m in facts["plan"]["modules"]
    )
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert not re.search(r"https?:|@import|@font-face|url\(", page.source)
    assert "prefers-color-scheme: dark" in page.source
    assert 'name="viewport"' in page.source
    for module in facts["plan"]["modules"]:
        for p in module["parameters"]:
            trained = f", trained ({p['group']})" if p["trained"] else ""
            assert f"{p['name']} {text.shape(p['shape'])}{trained}" in page.text


def test_hostile_names_are_only_names(bundle_path: Path, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\x1b[2J"
    manifest = json.loads((bundle_path / "manifest.json").read_text())
    manifest["plan"]["parameters"][0]["name"] = f"[red]{evil}.weight"
    manifest["plan"]["cut"] = evil
    manifest["schedules"]["auto"]["phases"][0]["name"] = evil
    manifest["hyper"][evil] = manifest["hyper"]["shrinkage"]
    manifest["runtimes"]["litert"]["versions"][evil] = evil
    fields = {key: manifest[key] for key in ("plan", "schedules", "hyper", "runtimes")}
    found = facts_of(changed(bundle_path, tmp_path / "evil.bundle", **fields))
    write_page(found, tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    assert "script" not in page.tags
    assert "<script>alert(1)</script>" in page.text
    shown = printed(found)
    assert "\x1b" not in shown
    assert "[red]<script>" in shown


@pytest.mark.parametrize(
    ("cut", "names", "before"),
    [
        ("group1.0.relu2", ["stem.conv", "group1.0.conv1", "group1.0.conv2", "*group2.0.conv1"], 3),
        ("group1.0.relu1", ["stem.conv", "group1.0.conv1", "group1.0.conv2", "*group2.0.conv1"], 2),
        ("layer2.1.relu", ["conv1", "layer1.0.conv1", "layer2.0.conv1", "layer2.1.conv1", "layer3.0.conv1", "*fc"], 4),
        ("features.3", ["features.0", "features.3", "features.6", "*features.9", "head"], 2),
        ("features.4", ["features.0", "features.3", "features.6", "*features.9", "head"], 2),
        ("relu1", ["conv1", "conv2", "*conv3", "head"], 1),
        ("pool", ["conv1", "conv2", "*conv3", "head"], 2),
        ("", ["a", "b", "*c"], 2),
        ("", ["a", "b"], 2),
    ],
)
def test_where_the_cut_lies(cut: str, names: list[str], before: int) -> None:
    made = [parameter(f"{name.removeprefix('*')}.weight", "centre" if name[0] == "*" else "frozen") for name in names]
    assert [m["behind"] for m in modules_of(plan(cut, *made))] == [i >= before for i in range(len(names))]


def test_long_networks_are_folded() -> None:
    body = [parameter(f"stage{s}.{b}.conv{c}.weight") for s in range(4) for b in range(6) for c in range(3)]
    body += [parameter(f"stage4.{b}.conv{c}.weight", "centre") for b in range(2) for c in range(2)]
    modules = modules_of(plan("stage3.5.conv2", *body, parameter("head.weight", "head", 9, 4)))
    assert [row["count"] for row in rows_of(modules, 100)] == [0] * len(modules)  # parameters, none folded
    rows = rows_of(modules, 30)
    assert [(row["name"], row["role"], row["count"]) for row in rows[-4:]] == [
        ("stage3.5", "frozen", 3), ("stage4.0", "centre", 2), ("stage4.1", "centre", 2), ("head", "head", 1),
    ]  # fmt: skip
    few = rows_of(modules, 8)
    assert [row["name"] for row in few] == ["stage0", "stage1", "stage2", "stage3", "stage4", "head"]
    assert sum(row["numbers"] for row in few) == sum(module["numbers"] for module in modules)
    assert few[4]["groups"] == ["body"]


def test_a_zip_is_read_as_well(bundle_path: Path, facts: dict[str, Any], tmp_path: Path) -> None:
    target = tmp_path / "digits.zip"
    zip_bundle(bundle_path, target)
    zipped = facts_of(Bundle.open(target))
    assert {**zipped, "bundle": None} == {**facts, "bundle": None}
