"""What the library adds to an app."""

from __future__ import annotations

import zlib
from pathlib import Path

from androidlib.apk import segment_alignment
from androidlib.artifacts import LIBRARY, jars
from androidlib.compiling import MODULES
from androidlib.dexing import dex_bytes, translate
from androidlib.executorch import ABIS
from androidlib.executorch import FOLDER as EXECUTORCH
from androidlib.executorch import classes as executorch_classes
from androidlib.paths import BUILD
from androidlib.shrinking import public_api, used_by_an_app

AIM = 120 * 1024


def show() -> None:
    """Bytes of dex, shrunk and not, and of the runtimes' native libraries, plain and as a zip packs them."""
    used = dex_bytes(used_by_an_app())
    print(f"{'used by an app':24} {used:>10,} bytes dex by R8: the ten lines, a worker and LiteRT (aim {AIM:,})")
    print(f"{'learner, public API':24} {dex_bytes(public_api()):>10,} bytes dex by R8, all of it kept")
    for module in MODULES:
        if module.is_library and module.name != "learner-testing":
            print(f"{module.name:24} {unshrunk(module.classes()):>10,} bytes dex by D8")
    for abi in ABIS:
        litert = next((LIBRARY / "app").glob(f"tensorflow-lite-2*/jni/{abi}/libtensorflowlite_jni.so"))
        for path in (litert, EXECUTORCH / abi / "libexecutorch.so"):
            data = path.read_bytes()
            packed = len(zlib.compress(data, 6))
            print(
                f"{abi:24} {len(data):>10,} bytes {path.name}, {packed:,} packed, pages of {segment_alignment(data):,}"
            )


def unshrunk(classes: Path) -> int:
    """Bytes of a module's dex for an app that does not shrink."""
    output = BUILD / "dex" / f"{classes.name}.zip"
    known = [*jars("app"), *executorch_classes(), *(m.classes() for m in MODULES if m.is_library)]
    others = [item for path in known if path != classes for item in ("--classpath", path)]
    translate("D8", output, [classes], others)
    return dex_bytes(output)
