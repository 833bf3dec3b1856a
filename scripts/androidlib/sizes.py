"""What the library adds to an app."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

from androidlib.artifacts import LIBRARY, jars, version
from androidlib.compiling import JAVA_FLAGS, MODULES
from androidlib.executorch import FOLDER as EXECUTORCH
from androidlib.executorch import classes as executorch_classes
from androidlib.paths import BUILD, need, run

ABIS = ("arm64-v8a", "x86_64")


def show() -> None:
    """Bytes of each module's dex, and of the runtimes' native libraries, plain and as a zip packs them."""
    for module in MODULES:
        if module.name.startswith("learner") and module.name != "learner-testing":
            print(f"{module.name:20} {dex(module.classes()):>10,} bytes dex")
    for abi in ABIS:
        litert = next((LIBRARY / "app").glob(f"tensorflow-lite-2*/jni/{abi}/libtensorflowlite_jni.so"))
        for path in (litert, EXECUTORCH / abi / "libexecutorch.so"):
            packed = len(zlib.compress(path.read_bytes(), 6))
            print(f"{abi:20} {path.stat().st_size:>10,} bytes {path.name}, {packed:,} packed")


def dex(classes: Path) -> int:
    """Bytes of the classes in Android's format, unshrunk: an app's R8 leaves less."""
    output = BUILD / "dex" / f"{classes.name}.zip"
    output.parent.mkdir(exist_ok=True)
    path = [*jars("test"), *executorch_classes(), *(m.classes() for m in MODULES if m.sources())]
    classpath = [item for part in path if part != classes for item in ("--classpath", part)]
    files = sorted(classes.rglob("*.class"))
    run(
        [need("java", "openjdk-17-jdk"), *JAVA_FLAGS, "-cp", jars("r8")[0], "com.android.tools.r8.D8", "--release",
         "--min-api", version("minSdk"), "--lib", jars("sdk")[0], *classpath, "--output", output, *files]
    )  # fmt: skip
    with zipfile.ZipFile(output) as archive:
        return sum(info.file_size for info in archive.infolist() if info.filename.endswith(".dex"))
