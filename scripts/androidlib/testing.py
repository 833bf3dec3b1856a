"""Runs the tests: fixtures from Python, then JUnit in one process for each way of loading native code."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from androidlib.artifacts import LIBRARY, jars
from androidlib.compiling import MODULES, Module
from androidlib.executorch import classes as executorch_classes
from androidlib.native import NATIVE, stand_ins
from androidlib.paths import APP, BUILD, MISSING, ROOT, need, run, stop
from androidlib.resources import for_robolectric
from androidlib.shrinking import prove

FIXTURES = BUILD / "fixtures"
FOR_PYTHON = BUILD / "for-python"


def run_tests(bundle: Path | None, python: Path | None, only: list[str], more: dict[str, Path] | None = None) -> None:
    """All tests, or those classes whose names are given, with ``more`` system properties."""
    interpreter, bundle = _prepared(bundle, python)
    natives = stand_ins()
    shutil.rmtree(FOR_PYTHON, ignore_errors=True)
    FOR_PYTHON.mkdir(parents=True)
    properties = {
        "pocketstep.bundle": bundle.resolve(),
        "pocketstep.fixtures": FIXTURES,
        "pocketstep.out": FOR_PYTHON,
        "java.library.path": NATIVE / "executorch",  # where NativeLoader looks for fbjni
        "robolectric.offline": "true",
        "robolectric.dependency.dir": LIBRARY / "robolectric",
        **natives,
        **(more or {}),
    }
    for each in MODULES:
        names = [name for name in _classes(each) if not only or name.rpartition(".")[2] in only]
        if names:
            _junit(each, names, [f"-D{key}={value}" for key, value in properties.items()])
    if not only:
        prove(bundle, natives["pocketstep.native.litert"], FIXTURES / "exchange" / "images" / "train.raw")
        _python(interpreter, "check_exchange.py", bundle, FOR_PYTHON, FIXTURES / "exchange")


def put_fixtures(bundle: Path | None, python: Path | None) -> None:
    """For a device: the bundle and the exchange, into the assets of the runtimes' instrumented tests."""
    _prepared(bundle, python)
    for module in ("learner-litert", "learner-executorch"):
        assets = APP / module / "src" / "androidTest" / "assets"
        shutil.rmtree(assets, ignore_errors=True)
        shutil.copytree(FIXTURES / "device.bundle", assets / "digits.bundle")
        shutil.copytree(FIXTURES / "exchange", assets / "exchange", ignore=shutil.ignore_patterns(".lock"))
        print(assets)


def _prepared(bundle: Path | None, python: Path | None) -> tuple[Path, Path]:
    """An interpreter, and the bundle without what Android has no use for; fixtures are made of that."""
    interpreter = python or ROOT / ".venv" / "bin" / "python"
    if not interpreter.exists():
        stop(f"there is no {interpreter}; run scripts/test once, or give --python", MISSING)
    bundle = bundle or _demo_bundle(interpreter)
    make_fixtures(interpreter, bundle)
    return interpreter, FIXTURES / "device.bundle"


def make_fixtures(interpreter: Path, bundle: Path) -> None:
    """What Python says, unless it was written for this bundle and these sources already."""
    sources = [*(ROOT / "tests" / "android").glob("*.py"), *(ROOT / "tests" / "device").glob("*.py")]
    sources += (ROOT / "on_device" / "pocketstep_device").rglob("*.py")
    stamp = FIXTURES / "stamp"
    manifest = bundle / "manifest.sha256"
    newest = max(path.stat().st_mtime for path in sources)
    wanted = f"{manifest.read_text() if manifest.exists() else bundle}{newest}"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    print("making fixtures with Python", flush=True)
    _python(interpreter, "fixtures.py", bundle, FIXTURES)
    stamp.write_text(wanted)


def _demo_bundle(interpreter: Path) -> Path:
    """The demo's bundle, built once: about two minutes."""
    given = os.environ.get("POCKETSTEP_TEST_BUNDLE")
    if given:
        return Path(given)
    target = BUILD / "demo" / "digits.bundle"
    if not target.exists():
        run([interpreter, "-m", "pocketstep", "build", ROOT / "models" / "digits.toml", "-o", target])
    return target


def _python(interpreter: Path, script: str, *arguments: Path) -> None:
    paths = f"{ROOT / 'pipeline'}:{ROOT / 'on_device'}"
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    run([interpreter, ROOT / "tests" / "android" / script, *arguments], env=environment)


def _classes(module: Module) -> list[str]:
    folder = module.classes("test")
    found = sorted(path.relative_to(folder) for path in folder.rglob("*Test.class"))
    return [str(path.with_suffix("")).replace("/", ".") for path in found]


def _junit(module: Module, names: list[str], properties: list[str]) -> None:
    print(f"testing {module.name}", flush=True)
    own = [module.classes("test"), *([for_robolectric()] if module.has_resources else [])]
    path = [*own, *(m.classes() for m in MODULES), *jars("test"), *executorch_classes(), *jars("sdk")]
    run(
        [need("java", "openjdk-17-jdk"), "-XX:+UseSerialGC", "-Xmx2g", *properties,
         "-cp", ":".join(map(str, path)), "pocketstep.testing.RunTests", module.name, *names],
        cwd=BUILD,
    )  # fmt: skip
