"""What several test folders share: the digits, and one real bundle, built once a session."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pocketstep.data import Dataset
    from pocketstep_device import Learner

GIVEN_BUNDLE = "POCKETSTEP_TEST_BUNDLE"
"""Environment variable: a bundle that exists already, to save the minute that building one takes."""

OpenLearner = Callable[..., "Learner"]


@pytest.fixture(scope="session")
def digits() -> tuple[Dataset, Dataset]:
    """(train, test), all ten classes, 16 x 16 pixels."""
    from pocketstep.data import load_digits

    return load_digits(16)


@pytest.fixture(scope="session")
def bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the digits 0 to 8 with all three runtimes; tests must not change it."""
    if given := os.environ.get(GIVEN_BUNDLE):
        return Path(given)
    return _build(tmp_path_factory.mktemp("bundle") / "digits.bundle")


def _build(target: Path) -> Path:
    from pocketstep.assemble import build_bundle, request_of
    from pocketstep.export.run import Exporters
    from pocketstep.recipe import load_recipe
    from pocketstep.stages import compress, load_material, train_teacher

    recipe = load_recipe("digits")
    recipe = replace(recipe, teacher=replace(recipe.teacher, epochs=6), transfer=replace(recipe.transfer, epochs=6))
    with Exporters(["executorch", "litert", "coreml"]) as exporters:
        material = load_material(recipe)
        teacher = train_teacher(recipe, material).network
        student = compress(recipe, material, teacher).network
        request = request_of(recipe, material.cloud)
        bundle = build_bundle(
            student, teacher, request, material.cloud, material.held_back, target, exporters, lambda stage: None
        )
    return bundle.path


@pytest.fixture
def open_learner(bundle_path: Path, tmp_path: Path) -> Iterator[OpenLearner]:
    """Opens learners on the session's bundle, their state in the test's own folder; closes them at the end."""
    from pocketstep_device import Learner

    with ExitStack() as stack:

        def opened(bundle: Path = bundle_path, state: Path = tmp_path / "state", runtime: str = "litert") -> Learner:
            return stack.enter_context(Learner.open(bundle, state, runtime))

        yield opened
