"""What several test folders share: the digits, and one real bundle, built once a session."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
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

KEPT_BUNDLE = "POCKETSTEP_KEEP_BUNDLE"
"""Environment variable: where the session's bundle is built and stays, so that Android's tests need no other."""

DATA = "POCKETSTEP_CIFAR"
"""Environment variable: where CIFAR is; it is never in the repository."""

MEMORY = Path("/dev/shm")
OpenLearner = Callable[..., "Learner"]


@pytest.fixture(scope="session")
def digits() -> tuple[Dataset, Dataset]:
    """(train, test), all ten classes, 16 x 16 pixels."""
    from pocketstep.data import load_digits

    return load_digits(16)


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Learners run toy programs in numpy."""
    import toy

    toy.install(monkeypatch)


@pytest.fixture
def memory_folder() -> Iterator[Path]:
    """A folder in memory where the system has one: tests that flush thousands of times don't wear out a disk."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture
def cifar() -> str:
    """A folder with the binary versions of CIFAR-10 and CIFAR-100 (unpack_cifar.py writes them), or a skip."""
    if DATA not in os.environ:
        pytest.skip(f"{DATA} names no folder with CIFAR's binary versions (unpack_cifar.py writes them)")
    return os.environ[DATA]


class _Builder:
    """The session's bundle, made by a process of its own while tests run that do not need it."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="pocketstep-bundle-")
        self._log = Path(self._folder.name) / "log.txt"
        self.target = Path(os.environ.get(KEPT_BUNDLE) or Path(self._folder.name) / "digits.bundle")
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # a core is left for the tests
        with self._log.open("w") as log:
            command = [sys.executable, __file__, str(self.target)]
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)

    def finish(self) -> Path:
        """Waits for it."""
        assert self._process.wait() == 0, self._log.read_text()[-4000:]
        return self.target

    def close(self) -> None:
        """Ends the process, if it still runs, and removes the bundle, unless it is wanted elsewhere."""
        self._process.terminate()
        self._process.wait()
        self._folder.cleanup()


_BUILDER = pytest.StashKey[_Builder]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begins the bundle where a test wants one and none is given."""
    wanted = any("bundle_path" in getattr(item, "fixturenames", ()) for item in session.items)
    if wanted and not os.environ.get(GIVEN_BUNDLE) and not session.config.option.collectonly:
        session.stash[_BUILDER] = _Builder()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Whatever is left of the bundle goes."""
    if _BUILDER in session.stash:
        session.stash[_BUILDER].close()


@pytest.fixture(scope="session")
def bundle_path(request: pytest.FixtureRequest) -> Path:
    """A bundle of the digits 0 to 8 with all three runtimes; tests must not change it."""
    if given := os.environ.get(GIVEN_BUNDLE):
        return Path(given)
    return request.session.stash[_BUILDER].finish()


def _build(target: Path) -> None:
    from pocketstep.assemble import build_bundle
    from pocketstep.blueprint import request_of
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
        build_bundle(
            student, teacher, request, material.cloud, material.held_back, target, exporters, lambda stage: None
        )


@pytest.fixture
def open_learner(bundle_path: Path, tmp_path: Path) -> Iterator[OpenLearner]:
    """Opens learners on the session's bundle, their state in the test's own folder; closes them at the end."""
    from pocketstep_device import Learner

    with ExitStack() as stack:

        def opened(bundle: Path = bundle_path, state: Path = tmp_path / "state", runtime: str = "litert") -> Learner:
            return stack.enter_context(Learner.open(bundle, state, runtime))

        yield opened


if __name__ == "__main__":
    _build(Path(sys.argv[1]))
