from __future__ import annotations

import copy
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from pocketstep.demo.report import write_report

METHODS = {
    "auto": ("Auto", 0.992, 0.951),
    "closed-form": ("Closed-form head", 0.990, 0.946),
    "nearest-mean": ("Nearest class mean", 0.953, 0.905),
    "replay": ("Replay and distillation", 0.985, 0.968),
    "fine-tune": ("Fine-tuning", 0.043, 1.0),
}
VOID = {"meta", "br", "link", "img", "hr", "input"}


def parameters() -> list[dict[str, Any]]:
    shapes = [("stem.conv", 16, 1), ("stage1.0.conv1", 16, 16), ("stage1.0.conv2", 16, 16)]
    shapes += [("stage2.0.conv1", 32, 16), ("stage2.0.conv2", 32, 32)]
    found: list[dict[str, Any]] = []
    for name, outputs, inputs in shapes:
        role = "centre" if name.startswith("stage2") else "frozen"
        weight = {"name": f"{name}.weight", "role": role, "shape": [outputs, inputs, 3, 3], "trained": role != "frozen"}
        found += [weight, {"name": f"{name}.bias", "role": "frozen", "shape": [outputs], "trained": False}]
    head = {"role": "head", "trained": True}
    return [*found, {"name": "fc.weight", "shape": [9, 32], **head}, {"name": "fc.bias", "shape": [9], **head}]


def runtime(seconds: float) -> dict[str, Any]:
    digits = [str(i) for i in range(10)]
    row = {"forgetting": 0.004, "seconds": seconds, "peak_memory_mb": 41.25, "accepted": True, "chosen": "solve"}
    phase = {"phase": "solve", "steps": 1, "seconds": 0.021, "old_accuracy": 0.99, "new_accuracy": 0.95}
    errors = dict.fromkeys(("encode", "classify", "statistics", "solve", "score"), 2.5e-7)
    rows = [
        {"method": m, "title": title, "old": old, "new": new, "mean": 0.9 * old + 0.1 * new, **row}
        | {"phases": [phase], "per_class": {c: new if c == "9" else old for c in digits}}
        for m, (title, old, new) in METHODS.items()
    ]
    second = [
        {"method": "solve", "title": "Closed-form head", "shifted": 0.86, "original": 0.97},
        {"method": "taps", "title": "Centre taps", "shifted": 0.943, "original": 0.981},
    ]
    return {
        "environment": {"python": "3.11.2", "packages": {"numpy": "2.4.6"}, "torch_imported": False},
        "golden": {"worst": 3.1e-6, "tolerance": 1e-4, "calls": 14, "by_signature": {**errors, "step": 3.1e-6}},
        "timing": {"encode_ms": 1.5, "classify_ms": 0.4, "step_ms": 2.25, "forward_passes": 1.18, "batch": 32},
        "act1": {
            "before": {"per_class": dict.fromkeys(digits[:9], 0.992), "old": 0.992, "new": math.nan},
            "rows": rows,
            "restart": {"old": 0.992, "new": 0.951, "same": True},
        },
        "act2": {
            "camera": "night",
            "images_per_class": 20,
            "before": {"shifted": 0.712, "original": 0.983},
            "rows": [{**r, "seconds": 3.4, "peak_memory_mb": 55.0, "chosen": "kept"} for r in second],
        },
    }


@pytest.fixture
def results() -> dict[str, Any]:
    files = {"manifest.json": 9300, "program.tflite": 310_000, "program.pte": 290_000, "replay.safetensors": 150_000}
    found = parameters()
    layers = [{"name": p["name"].removesuffix(".weight"), "before": 64, "after": p["shape"][0]} for p in found[:10:2]]
    return {
        "version": "0.1.0",
        "machine": {"cpu": "Made-up CPU", "cores": 2, "python": "3.11.2"},
        "seconds": {"total": 95.0, "teacher": 30.0, "compress": 25.0, "compile and export": 28.0, "device": 12.0},
        "cloud": {
            "teacher": {"accuracy": 0.994, "parameters": 272_474, "macs": 40_551_000},
            "student": {"accuracy": 0.992, "parameters": 98_512, "macs": 12_340_000},
            "layers": [{**layer, "zero_share": 0.523} for layer in layers],
            "threshold": 0.6,
        },
        "plan": {"cut": "stage1", "parameters": found, "trained_parameters": 1833, "all_parameters": 98_512},
        "bundle": {"files": files, "bytes": sum(files.values()), "latent_bytes": 1024},
        "old_classes": [str(i) for i in range(9)],
        "new_class": "9",
        "observed": 100,
        "runtimes": {"litert": runtime(2.04), "executorch": runtime(2.51)},
    }


class Page(HTMLParser):
    """Checks that elements close in order; collects tags, attributes and text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.ids: list[str] = []
        self.source = path.read_text("utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data.replace("\u00a0", " ")


def written(results: dict[str, Any], folder: Path) -> Page:
    path = folder / "new" / "report.html"
    write_report(results, path)
    return Page(path)


def test_the_figures_are_on_the_page(results: dict[str, Any], tmp_path: Path):
    page = written(results, tmp_path)
    assert "Learned “9” from 100 images in 2.0 s on LiteRT: 95.1 % on it, old classes 99.2 % → 99.2 %" in page.text
    shown = ["41.2 MiB", "1.18", "3.1e-06", "742 KiB", "272 k", "12.3 M", "52.3 %", "1.00 KiB", "16×16×3×3", "✂ cut"]
    shown += ["99.2 → 99.2", "4.3", "94.3", "Made-up CPU", "numpy 2.4.6", "21 ms", "agrees", "PyTorch not imported"]
    assert [figure for figure in shown if figure not in page.text] == []
    assert page.source.count("<svg viewBox") == 1 + 3 + 3


def test_nothing_is_loaded_from_elsewhere(results: dict[str, Any], tmp_path: Path):
    page = written(results, tmp_path)
    assert not page.tags & {"script", "link", "img", "iframe", "object", "embed", "base"}
    for name, value in page.attributes:
        assert name not in {"src", "srcset"}
        assert not name.endswith("href") or value.startswith("#")
        assert "//" not in value or name.startswith("xmlns")
    assert not re.search(r"https?:|@import|@font-face|url\((?!#)", page.source)


def test_ids_are_unique_and_references_resolve(results: dict[str, Any], tmp_path: Path):
    page = written(results, tmp_path)
    assert len(page.ids) == len(set(page.ids))
    references = re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", page.source)
    assert references
    assert set(references) <= set(page.ids)


def test_plots_use_the_colours_of_the_page(results: dict[str, Any], tmp_path: Path):
    body = written(results, tmp_path).source.split("</style>")[-1]
    assert not re.search(r"#[0-9a-f]{6}\b", body)
    for name in ("ink", "muted", "line", "before", "old", "new"):
        assert f"var(--{name})" in body


@pytest.mark.parametrize(("kept", "gone"), [("litert", "ExecuTorch"), ("executorch", "LiteRT")])
def test_a_runtime_that_did_not_run_is_not_mentioned(results: dict[str, Any], tmp_path: Path, kept: str, gone: str):
    results["runtimes"] = {kept: results["runtimes"][kept]}
    assert gone not in written(results, tmp_path).text


def test_names_are_escaped_and_not_typeset(results: dict[str, Any], tmp_path: Path):
    text = copy.deepcopy(results)
    text["new_class"] = "<b>x"
    text["old_classes"][0] = "$a_1$ & 'é'"
    page = written(text, tmp_path)
    assert "<b>x" not in page.source
    assert "&lt;b&gt;x" in page.source
    assert "“<b>x”" in page.text
    assert "$a_1$ & 'é'" in page.text


def test_nan_is_a_dash(results: dict[str, Any], tmp_path: Path):
    before = written(results, tmp_path)
    assert "– → 95.1" in before.text  # the new class had no accuracy
    litert = results["runtimes"]["litert"]
    litert["act1"]["rows"][0] |= {"old": math.nan, "new": math.nan, "mean": math.nan, "seconds": math.nan}
    litert["act1"]["rows"][0] |= {"peak_memory_mb": math.nan, "per_class": dict.fromkeys("0123456789", math.nan)}
    litert["timing"]["forward_passes"] = litert["golden"]["worst"] = math.nan
    litert["act2"]["before"]["shifted"] = results["cloud"]["student"]["macs"] = math.nan
    page = written(results, tmp_path)
    assert not re.search(r"\bnan\b", page.source, re.IGNORECASE)
    assert "– on it, old classes 99.2 % → –" in page.text


def test_an_update_that_was_not_accepted_is_no_success(results: dict[str, Any], tmp_path: Path):
    results["runtimes"]["litert"]["act1"]["rows"][0]["accepted"] = False
    page = written(results, tmp_path)
    assert "did not accept the update" in page.text
    assert "Learned “9”" not in page.text
