"""ExecuTorch's Android library for tests: apps take Maven's ``executorch-android``; npm's package holds the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from androidlib.artifacts import version
from androidlib.paths import BUILD, need, run, stop

PACKAGE = "react-native-executorch"
FOLDER = BUILD / "executorch"


def fetch() -> None:
    """The classes and libraries of the pinned version, into ``build/executorch``."""
    wanted = version(PACKAGE)
    stamp = FOLDER / "stamp"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    print(f"fetching {PACKAGE} {wanted} (once)", flush=True)
    npm = BUILD / "npm"
    shutil.rmtree(npm, ignore_errors=True)
    npm.mkdir(parents=True)
    (npm / "package.json").write_text(json.dumps({"private": True}))
    run([need("npm", "npm"), "install", "--silent", "--ignore-scripts", "--legacy-peer-deps", "--no-save",
         "--omit=peer", f"{PACKAGE}@{wanted}"], cwd=npm)  # fmt: skip
    found = {path.name: path for path in (npm / "node_modules" / PACKAGE).rglob("classes.jar")}
    if not found:
        stop(f"{PACKAGE} {wanted} has no classes.jar")
    FOLDER.mkdir(parents=True, exist_ok=True)
    shutil.copy(found["classes.jar"], FOLDER / "classes.jar")
    for abi in ("x86_64", "arm64-v8a"):
        for path in (npm / "node_modules" / PACKAGE).rglob(f"{abi}/libexecutorch.so"):
            (FOLDER / abi).mkdir(exist_ok=True)
            shutil.copy(path, FOLDER / abi)
    shutil.rmtree(npm)
    stamp.write_text(wanted)


def classes() -> list[Path]:
    """``org.pytorch.executorch``."""
    return [FOLDER / "classes.jar"]
