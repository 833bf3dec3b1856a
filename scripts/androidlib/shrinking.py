"""R8: what the library costs an app that shrinks, and whether it still learns then."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from androidlib.artifacts import jars
from androidlib.compiling import JAVA_FLAGS, MODULES
from androidlib.dexing import translate
from androidlib.executorch import classes as executorch_classes
from androidlib.paths import APP, BUILD, need, run

_LITERT = next(module for module in MODULES if module.name == "learner-litert")
_LEARNER = next(module for module in MODULES if module.name == "learner")
_RULES = {
    "public": "-keep public class pocketstep.learner.** { public protected *; }",
    "app": "-keep class pocketstep.shrunk.Shrunk { *** tenLines(...); }\n"
    "-keep class pocketstep.shrunk.Shrunk$Worker { <init>(...); }",
    "proof": "-keep class pocketstep.shrunk.Proof { void main(...); }",
}


def public_api() -> Path:
    """The library alone, all that an app might call kept."""
    return shrink("public", [_LEARNER.classes()])


def used_by_an_app() -> Path:
    """The library, its LiteRT module, and the README's ten lines with a worker."""
    return shrink("app", [_LEARNER.classes(), _LITERT.classes(), _LITERT.classes("shrunk")])


def shrink(name: str, programs: Sequence[Path], classfile: bool = False) -> Path:
    """R8 with the modules' consumer rules: a zip of dex, or of class files; what it leans on is not counted."""
    output = BUILD / "shrunk" / f"{name}.jar"
    output.parent.mkdir(exist_ok=True)
    rules = output.with_suffix(".pro")
    consumer = [(APP / module / "consumer-rules.pro").read_text() for module in ("learner", "learner-litert")]
    rules.write_text("\n".join([*consumer, _RULES[name], "-dontwarn **"]))
    known = [item for jar in [*jars("app"), *executorch_classes()] for item in ("--classpath", jar)]
    translate("R8", output, programs, [*known, "--pg-conf", rules, *(["--classfile"] if classfile else [])])
    return output


def prove(bundle: Path, natives: object, pictures: Path) -> None:
    """Runs a shrunk program on the desktop's JVM and LiteRT's own library: it learns a class, or this fails."""
    programs = [_LEARNER.classes(), _LITERT.classes(), _LITERT.classes("shrunk")]
    shrunk = shrink("proof", programs, classfile=True)
    path = ":".join(map(str, [shrunk, *jars("app"), *jars("sdk")]))
    with tempfile.TemporaryDirectory() as state:
        run(
            [need("java", "openjdk-17-jdk"), *JAVA_FLAGS, "-cp", path, "pocketstep.shrunk.Proof", bundle, state,
             str(natives), pictures]
        )  # fmt: skip
