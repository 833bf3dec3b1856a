"""Compiles the modules as Gradle would: each against the ones before it, its tests with sight of its internals."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from androidlib.artifacts import jars
from androidlib.executorch import classes as executorch_classes
from androidlib.paths import APP, BUILD, need, run

DRIVER = Path(__file__).with_name("Compile.java")
JAVA_FLAGS = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-Xmx2g"]
GENERATED = BUILD / "apk" / "gen"
SHIPPED = ["-Xno-call-assertions", "-Xno-param-assertions", "-Xno-receiver-assertions"]
"""Flags of what apps get: without checks for null that Kotlin's callers don't need; a build script has them too."""
KINDS = ("main", "test", "androidTest", "shrunk")


@dataclass(frozen=True)
class Module:
    """A folder of ``android_app`` with ``src/main``, and maybe ``src/test`` and ``src/androidTest``."""

    name: str
    needs: tuple[str, ...]
    is_library: bool = True
    has_resources: bool = False

    def sources(self, kind: str = "main") -> list[Path]:
        """Kotlin and Java files; the app's resources as Java among them."""
        folders = [APP / self.name / "src" / kind]
        if self.has_resources and kind == "main":
            folders.append(GENERATED)
        return sorted(path for folder in folders for path in folder.rglob("*") if path.suffix in (".kt", ".java"))

    def classes(self, kind: str = "main") -> Path:
        """What they compile to."""
        return BUILD / "classes" / kind / self.name


MODULES = (
    Module("learner", ()),
    Module("learner-litert", ("learner",)),
    Module("learner-executorch", ("learner",)),
    Module("learner-testing", ("learner",)),
    Module("validator", ("learner", "learner-litert", "learner-executorch"), is_library=False),
    Module("app", ("learner", "learner-litert"), is_library=False, has_resources=True),
)


def compile_all() -> None:
    """Every module, then every module's tests, those for devices too; what did not change is left alone."""
    outside = [*jars("test"), *executorch_classes(), *jars("sdk")]
    stamps: dict[Path, str] = {}
    jobs = []
    for kind in KINDS:
        for module in MODULES:
            if not any(path.suffix == ".kt" for path in module.sources(kind)):
                continue
            flags = [
                "-no-stdlib",
                "-no-reflect",
                "-jvm-target",
                "17",
                "-Werror",
                "-module-name",
                f"{module.name}-{kind}",
            ]
            flags += SHIPPED if kind == "main" else []
            if kind == "main":
                inside = [m.classes() for m in MODULES if m.name in module.needs]
                flags += ["-Xexplicit-api=strict"] if module.is_library else []
            else:
                inside = [m.classes() for m in MODULES if m.sources()]
                flags.append(f"-Xfriend-paths={module.classes()}")
            jobs += _job(module, kind, [*inside, *outside], flags, stamps)
    if jobs:
        compiler = ":".join(map(str, jars("kotlinc")))
        run([need("java", "openjdk-17-jdk"), *JAVA_FLAGS, "-cp", compiler, DRIVER, *jobs])


def _job(module: Module, kind: str, path: list[Path], flags: list[str], stamps: dict[Path, str]) -> list[Path]:
    """A file of what to do, for ``Compile.java``; none if that was done already."""
    target, files = module.classes(kind), module.sources(kind)
    digest = hashlib.sha256("\n".join([*map(str, path), *flags]).encode())
    for file in files:
        digest.update(str(file).encode() + file.read_bytes())
    for folder in path:
        digest.update(stamps.get(folder, "").encode())
    stamps[target] = content = digest.hexdigest()
    stamp = target.with_name(f"{target.name}.stamp")
    if stamp.exists() and stamp.read_text() == content:
        return []
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    job = BUILD / "jobs" / f"{module.name}-{kind}"
    job.parent.mkdir(exist_ok=True)
    job.write_text("\n".join(map(str, [stamp, content, ":".join(map(str, path)), target, *flags, *files])))
    return [job]
