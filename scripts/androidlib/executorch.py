"""ExecuTorch's Android library for tests: apps take Maven's ``executorch-android``; npm's package holds the same."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

from androidlib.artifacts import version
from androidlib.paths import BUILD, need, run, stop

PACKAGE = "react-native-executorch"
FOLDER = BUILD / "executorch"
LIBRARY = "libexecutorch.so"
ABIS = ("arm64-v8a", "x86_64")


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
    run([need("npm", "npm"), "pack", "--silent", f"{PACKAGE}@{wanted}"], cwd=npm)
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tarfile.open(next(npm.glob("*.tgz"))) as archive:
        unpack(archive)
    shutil.rmtree(npm)
    stamp.write_text(wanted)


def unpack(archive: tarfile.TarFile) -> None:
    """The few files that are used, of some thousand."""
    found = set()
    for member in archive:
        path = Path(member.name)
        if path.name == "classes.jar" or (path.name == LIBRARY and path.parent.name in ABIS):
            target = FOLDER / path.name if path.suffix == ".jar" else FOLDER / path.parent.name / path.name
            content = archive.extractfile(member)
            if content:
                target.parent.mkdir(exist_ok=True)
                target.write_bytes(content.read())
                found.add(str(target.relative_to(FOLDER)))
    missing = {"classes.jar", *(f"{abi}/{LIBRARY}" for abi in ABIS)} - found
    if missing:
        stop(f"{PACKAGE} lacks {', '.join(sorted(missing))}")


def classes() -> list[Path]:
    """``org.pytorch.executorch``."""
    return [FOLDER / "classes.jar"]
