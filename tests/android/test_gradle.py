"""Gradle's files, which nothing here can run, against what ``scripts/android`` compiles and tests."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import tomllib

ROOT = Path(__file__).parents[2]
APP = ROOT / "android_app"
sys.path.insert(0, str(ROOT / "scripts"))

from androidlib import artifacts, compiling  # noqa: E402

CATALOG = tomllib.loads((APP / "gradle" / "libs.versions.toml").read_text())
MODULES = {module.name: module for module in compiling.MODULES}


def build_file(module: str) -> str:
    return (APP / module / "build.gradle.kts").read_text()


def test_the_same_modules() -> None:
    settings = (APP / "settings.gradle.kts").read_text()
    assert set(re.findall(r'":([\w-]+)"', settings)) == set(MODULES)
    assert {path.parent.name for path in APP.glob("*/build.gradle.kts")} == set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_the_same_modules_inside(name: str) -> None:
    """A module sees there what it sees here, directly or through another's api."""

    def reached(module: str) -> set[str]:
        needs = set(re.findall(r'(?:api|implementation)\(project\(":([\w-]+)"\)\)', build_file(module)))
        return needs.union(*(reached(other) for other in needs))

    assert reached(name) == set(MODULES[name].needs)
    assert ("android.library" in build_file(name)) == MODULES[name].is_library


@pytest.mark.parametrize("name", MODULES)
def test_every_alias_is_in_the_catalog(name: str) -> None:
    text = build_file(name)
    known = {alias.replace("-", ".") for alias in CATALOG["libraries"]}
    used = set(re.findall(r"\((?:libs\.)((?!versions|plugins)[\w.]+)\)", text))
    assert used <= known, used - known
    versions = {alias.replace("-", ".") for alias in CATALOG["versions"]}
    assert {found.removesuffix(".get") for found in re.findall(r"libs\.versions\.([\w.]+?)\.get\(", text)} <= versions
    plugins = {alias.replace("-", ".") for alias in CATALOG["plugins"]}
    assert set(re.findall(r"libs\.plugins\.([\w.]+)\)", text)) <= plugins


def test_every_library_has_a_version() -> None:
    for alias, entry in CATALOG["libraries"].items():
        assert entry["version"]["ref"] in CATALOG["versions"], alias
    assert set(CATALOG["bundles"]["pinned"]) <= set(CATALOG["libraries"])


def test_the_lock_is_of_this_catalog() -> None:
    lines = artifacts.LOCK.read_text().splitlines()
    assert artifacts.digest() in lines[0]
    locked = {artifact.rsplit(" ", 1)[1].split(":jar")[0].split(":aar")[0] for artifact in lines[1:]}
    for name, wanted in artifacts.roots().items():
        for artifact in wanted:
            assert ":".join(artifact.lstrip("!").split(":")[:3]) in locked, (name, artifact)


@pytest.mark.parametrize("name", [name for name, module in MODULES.items() if module.is_library])
def test_libraries_are_compiled_with_the_same_flags(name: str) -> None:
    text = build_file(name)
    assert "explicitApi()" in text
    if name != "learner-testing":
        assert all(flag in text for flag in compiling.SHIPPED)
        assert (APP / name / "consumer-rules.pro").exists()
        assert 'consumerProguardFiles("consumer-rules.pro")' in text
