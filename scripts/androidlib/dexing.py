"""Classes as Android's own: by part with D8, or all together and shrunk with R8."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

from androidlib import resources
from androidlib.artifacts import jars, version
from androidlib.compiling import JAVA_FLAGS, MODULES
from androidlib.paths import APP, need, run

DEX = resources.OUT / "dex"
LIBRARIES = "androidx, kotlin, coroutines, tensorflow-lite"


def parts() -> dict[str, list[Path]]:
    """What the app's code is made of: classes and jars by the name of their part."""
    compiled = {module.name: module.classes() for module in MODULES}
    return {
        "app": [compiled["app"]],
        "learner, learner-litert": [compiled[name] for name in resources.MODULES],
        LIBRARIES: resources.classes(),
    }


def dex() -> dict[str, list[Path]]:
    """Each part's dex files; a part that did not change is left alone."""
    found = {}
    everything = [path for inputs in parts().values() for path in inputs]
    for index, (name, inputs) in enumerate(parts().items()):
        target = DEX / str(index)
        wanted = _digest(inputs)
        stamp = target / "stamp"
        if not stamp.exists() or stamp.read_text() != wanted:
            others = [path for path in everything if path not in inputs]
            _fresh(target)
            translate("D8", target, inputs, [part for path in others for part in ("--classpath", path)])
            stamp.write_text(wanted)
        found[name] = sorted(target.glob("*.dex"))
    return found


def shrink() -> dict[str, list[Path]]:
    """All code in one, without what nobody calls: by the rules that libraries bring and resources need."""
    rules = [folder / "proguard.txt" for folder in resources.libraries()]
    rules += [APP / name / "consumer-rules.pro" for name in resources.MODULES]
    rules += [resources.RULES, APP / "app" / "proguard-rules.pro"]
    target = DEX / "shrunk"
    _fresh(target)
    inputs = [path for part in parts().values() for path in part]
    translate("R8", target, inputs, [part for path in rules if path.exists() for part in ("--pg-conf", path)])
    return {"all code, shrunk": sorted(target.glob("*.dex"))}


def system() -> list[str | Path]:
    """The classes that a device has: Android's, and those of ``java`` that its archive here leaves out."""
    jdk = Path(need("javac", "openjdk-17-jdk")).resolve().parents[1]
    return ["--lib", jars("sdk")[0], "--lib", jdk]


def dex_bytes(file: Path) -> int:
    """Of all dex files in a zip."""
    with zipfile.ZipFile(file) as archive:
        return sum(info.file_size for info in archive.infolist() if info.filename.endswith(".dex"))


def translate(tool: str, target: Path, inputs: Sequence[Path], more: Sequence[str | Path]) -> None:
    """Runs D8 or R8 for the lowest system on jars and folders of classes; ``target`` is a folder or a zip."""
    target.parent.mkdir(parents=True, exist_ok=True)
    files = [file for path in inputs for file in (sorted(path.rglob("*.class")) if path.is_dir() else [path])]
    listed = target.with_suffix(".txt")
    listed.write_text("\n".join(map(str, files)))
    run(
        [need("java", "openjdk-17-jdk"), *JAVA_FLAGS, "-cp", jars("r8")[0], f"com.android.tools.r8.{tool}", "--release",
         *system(), *([] if "--classfile" in more else ["--min-api", version("minSdk")]),
         *more, "--output", target, f"@{listed}"]
    )  # fmt: skip


def _digest(inputs: list[Path]) -> str:
    digest = hashlib.sha256(version("r8").encode())
    for path in inputs:
        for file in sorted(path.rglob("*.class")) if path.is_dir() else [path]:
            digest.update(str(file).encode() + file.read_bytes())
    return digest.hexdigest()


def _fresh(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
