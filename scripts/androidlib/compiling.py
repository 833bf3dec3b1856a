"""Compiles the modules as Gradle would: each against the ones before it, its tests with sight of its internals."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from androidlib.artifacts import jars
from androidlib.executorch import classes as executorch_classes
from androidlib.paths import APP, BUILD, need, run

JAVA_FLAGS = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-Xmx2g"]


@dataclass(frozen=True)
class Module:
    """A folder of ``android_app`` with ``src/main`` and maybe ``src/test`` and ``src/androidTest``."""

    name: str
    needs: tuple[str, ...]
    explicit_api: bool = True

    @property
    def sources(self) -> Path:
        """What is shipped."""
        return APP / self.name / "src" / "main" / "kotlin"

    @property
    def classes(self) -> Path:
        """What it compiles to."""
        return BUILD / "classes" / self.name

    def tests(self, kind: str = "test") -> Path:
        """``test``: run here; ``androidTest``: on a device."""
        return APP / self.name / "src" / kind / "kotlin"

    def test_classes(self, kind: str = "test") -> Path:
        """What these compile to."""
        return BUILD / f"{kind}-classes" / self.name


MODULES = (
    Module("learner", ()),
    Module("learner-litert", ("learner",)),
    Module("learner-executorch", ("learner",)),
    Module("learner-testing", ("learner",)),
    # Module("app", ("learner", "learner-litert"), explicit_api=False),
)


def module(name: str) -> Module:
    """A module by its name."""
    return next(m for m in MODULES if m.name == name)


def compile_all() -> None:
    """Every module, then every module's tests; what did not change is left alone."""
    for each in MODULES:
        path = [*jars("sdk"), *jars("test"), *executorch_classes(), *(module(n).classes for n in each.needs)]
        flags = ["-Xexplicit-api=strict"] if each.explicit_api else []
        if each.name == "app":
            path.append(BUILD / "apk" / "r-classes")
        compile_kotlin(each.sources, each.classes, path, [*flags, "-module-name", each.name])
    testing = [m.classes for m in MODULES]
    for each in MODULES:
        for kind in ("test", "androidTest"):
            if any(each.tests(kind).rglob("*.kt")):
                path = [*jars("sdk"), *jars("test"), *executorch_classes(), *testing, BUILD / "apk" / "r-classes"]
                friends = f"-Xfriend-paths={each.classes}"
                flags = [friends, "-module-name", f"{each.name}-{kind}"]
                compile_kotlin(each.tests(kind), each.test_classes(kind), path, flags)


def compile_kotlin(sources: Path, target: Path, classpath: list[Path], flags: list[str]) -> None:
    """One call of the Kotlin compiler, and of Java's for ``.java`` beside; warnings are errors."""
    files = sorted([*sources.rglob("*.kt"), *sources.rglob("*.java")])
    stamp = target.with_name(f"{target.name}.stamp")
    content = _digest(files, classpath, flags)
    if stamp.exists() and stamp.read_text() == content:
        return
    print(f"compiling {sources.relative_to(APP)}", flush=True)
    target.mkdir(parents=True, exist_ok=True)
    for old in target.rglob("*.class"):
        old.unlink()
    path = ":".join(map(str, classpath))
    compiler = ":".join(map(str, jars("kotlinc")))
    options = ["-no-stdlib", "-no-reflect", "-jvm-target", "17", "-Werror", "-cp", path, "-d", str(target), *flags]
    run(
        [need("java", "openjdk-17-jdk"), *JAVA_FLAGS, "-cp", compiler, "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler",
         *options, *files]
    )  # fmt: skip
    java = [file for file in files if file.suffix == ".java"]
    if java:
        run([need("javac", "openjdk-17-jdk"), "-nowarn", "-cp", f"{target}:{path}", "-d", target, *java])
    stamp.write_text(content)


def _digest(files: list[Path], classpath: list[Path], flags: list[str]) -> str:
    digest = hashlib.sha256("\n".join([*map(str, classpath), *flags]).encode())
    for file in files:
        digest.update(str(file).encode() + file.read_bytes())
    for folder in classpath:
        stamp = folder.with_name(f"{folder.name}.stamp")
        if stamp.exists():
            digest.update(stamp.read_bytes())
    return digest.hexdigest()
