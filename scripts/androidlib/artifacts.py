"""Maven artifacts: their versions from Gradle's catalog, their closure locked in a list, fetched by Maven itself."""

from __future__ import annotations

import hashlib
import re
import subprocess
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import tomllib

from androidlib.paths import BUILD, CATALOG, LOCK, MISSING, need, run, stop

LIBRARY = BUILD / "artifacts"
_TREE = re.compile(r"([\w.\-]+):([\w.\-]+):([\w.\-]+)(?::([\w.\-]+))?:([\w.\-]+):(?:compile|runtime|test|provided)")


@dataclass(frozen=True, order=True)
class Artifact:
    """One file of a repository."""

    group: str
    name: str
    version: str
    kind: str = "jar"
    classifier: str = ""

    @classmethod
    def parse(cls, text: str) -> Artifact:
        """Reads ``group:name:version[:kind[:classifier]]``."""
        return cls(*text.split(":"))

    def __str__(self) -> str:
        parts = [self.group, self.name, self.version, self.kind, self.classifier]
        return ":".join(parts).rstrip(":")

    @property
    def file(self) -> str:
        """Its name on the disk."""
        return f"{self.name}-{self.version}{'-' if self.classifier else ''}{self.classifier}.{self.kind}"

    def xml(self, tag: str, more: str = "") -> str:
        """A Maven element."""
        fields = {"groupId": self.group, "artifactId": self.name, "version": self.version, "type": self.kind}
        if self.classifier:
            fields["classifier"] = self.classifier
        return f"<{tag}>{''.join(f'<{k}>{v}</{k}>' for k, v in fields.items())}{more}</{tag}>"


@cache
def catalog() -> dict[str, Any]:
    """Gradle's version catalog."""
    return tomllib.loads(CATALOG.read_text())


def version(name: str) -> str:
    """One of the catalog's versions."""
    value: str = catalog()["versions"][name]
    return value


def library(alias: str) -> str:
    """``group:name:version`` of one of the catalog's libraries."""
    entry = catalog()["libraries"][alias]
    return f"{entry['module']}:{version(entry['version']['ref'])}"


def roots() -> dict[str, list[str]]:
    """What each set of artifacts begins with; ``!`` in front of one leaves its dependencies out."""
    app = ["kotlin-stdlib", "coroutines-android", "work-runtime", "tensorflow-lite", "tensorflow-lite-api"]
    app += ["fbjni", "nativeloader"]
    test = ["junit", "robolectric", "coroutines-test", "androidx-test-core", "work-testing"]
    kotlin, android = version("kotlin"), version("android-all")
    return {
        "app": [library(name) for name in app],
        "test": [*(library(name) for name in app + test), f"net.java.dev.jna:jna:{version('jna')}"],
        "sdk": [f"!org.robolectric:android-all:{android}"],
        "robolectric": [f"!org.robolectric:android-all-instrumented:{version('android-all-instrumented')}"],
        "kotlinc": [f"org.jetbrains.kotlin:kotlin-compiler-embeddable:{kotlin}"],
        "ktlint": [f"!com.pinterest.ktlint:ktlint-cli:{version('ktlint')}:jar:all"],
        "detekt": [f"!io.gitlab.arturbosch.detekt:detekt-cli:{version('detekt')}:jar:all"],
        "r8": [f"!com.android.tools:r8:{version('r8')}"],
        "merger": [f"com.android.tools.build:manifest-merger:{version('manifest-merger')}"],
        "apksig": [f"!com.android.tools.build:apksig:{version('apksig')}"],
    }


def lock() -> None:
    """Resolves every set and writes the list; needed only when the catalog changed."""
    lines = [f"# {digest()} of the versions; made by scripts/android lock"]
    for name, wanted in roots().items():
        alone = [Artifact.parse(item[1:]) for item in wanted if item.startswith("!")]
        found = closure(name, [Artifact.parse(item) for item in wanted if not item.startswith("!")])
        lines += [f"{name} {artifact}" for artifact in sorted({*alone, *found})]
        print(f"{name}: {len(alone) + len(found)} artifacts")
    LOCK.write_text("\n".join(lines) + "\n")


def closure(name: str, wanted: list[Artifact]) -> list[Artifact]:
    """All that some artifacts need; each one's kind is what its own POM says, since others' POMs often don't."""
    if not wanted:
        return []
    folder = BUILD / "lock" / name
    folder.mkdir(parents=True, exist_ok=True)
    pom, tree = folder / "pom.xml", folder / "tree.txt"
    dependencies = "".join(artifact.xml("dependency") for artifact in wanted)
    pom.write_text(_project(f"{_managed()}<dependencies>{dependencies}</dependencies>"))
    _maven(pom, f"{_plugin()}:tree", f"-DoutputFile={tree}")
    found = {(g, a): v for g, a, _, _, v in sorted(_TREE.findall(tree.read_text()), key=lambda row: _order(row[4]))}
    found_rows = [(g, a, v) for (g, a), v in sorted(found.items())]
    return [Artifact(g, a, v, "aar" if _is_aar(folder, g, a, v) else "jar") for g, a, v in found_rows]


def _order(text: str) -> list[tuple[int, str]]:
    """Of versions, the newest last: what Gradle chooses where Maven lists two kinds of one artifact."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"[.\-]", text)]


def _managed() -> str:
    """Pins of the catalog: AndroidX asks for exact versions that contradict each other, which Maven refuses."""
    rows = "".join(Artifact.parse(library(alias)).xml("dependency") for alias in catalog()["bundles"]["pinned"])
    return f"<dependencyManagement><dependencies>{rows}</dependencies></dependencyManagement>"


def _is_aar(folder: Path, group: str, name: str, wanted: str) -> bool:
    pom = Path.home() / ".m2" / "repository" / group.replace(".", "/") / name / wanted / f"{name}-{wanted}.pom"
    if not pom.exists():
        _maven(folder / "pom.xml", f"{_plugin()}:get", f"-Dartifact={group}:{name}:{wanted}:pom", "-Dtransitive=false")
    match = re.search(r"<packaging>\s*(.*?)\s*</packaging>", pom.read_text())
    return bool(match and match[1] == "aar")


def digest() -> str:
    """Of what the lock depends on."""
    return hashlib.sha256("\n".join(sorted(item for items in roots().values() for item in items)).encode()).hexdigest()[
        :16
    ]


def fetch() -> None:
    """Puts every locked artifact into ``build/artifacts/SET``; AARs are unpacked beside, their classes named .jar."""
    text = LOCK.read_text()
    if digest() not in text.splitlines()[0]:
        stop("the catalog's versions changed; run scripts/android lock and commit artifacts.lock", 2)
    stamp = LIBRARY / "stamp"
    if stamp.exists() and stamp.read_text() == text:
        return
    print("fetching artifacts (once)", flush=True)
    sets: dict[str, list[Artifact]] = {}
    for line in text.splitlines()[1:]:
        name, artifact = line.split(" ")
        sets.setdefault(name, []).append(Artifact.parse(artifact))
    everything = sorted({artifact for artifacts in sets.values() for artifact in artifacts})
    pom, pool = BUILD / "fetch" / "pom.xml", BUILD / "fetch" / "files"
    pom.parent.mkdir(parents=True, exist_ok=True)
    nothing_else = "<exclusions><exclusion><groupId>*</groupId><artifactId>*</artifactId></exclusion></exclusions>"
    # One version of a file each: a POM can't hold two, so that sets which differ take several.
    remaining = everything
    while remaining:
        keys = {(a.group, a.name, a.classifier): a for a in remaining}
        chosen = list(keys.values())
        remaining = [a for a in remaining if a not in chosen]
        rows = "".join(a.xml("dependency", nothing_else) for a in chosen)
        pom.write_text(_project(f"<dependencies>{rows}</dependencies>"))
        _maven(pom, f"{_plugin()}:copy-dependencies", f"-DoutputDirectory={pool}")
    for name, artifacts in sets.items():
        folder = LIBRARY / name
        folder.mkdir(parents=True, exist_ok=True)
        for artifact in artifacts:
            _place(pool / artifact.file, folder)
    stamp.write_text(text)


def _place(file: Path, folder: Path) -> None:
    target = folder / file.name
    target.unlink(missing_ok=True)
    target.hardlink_to(file)
    if file.suffix == ".aar":
        with zipfile.ZipFile(file) as archive:
            archive.extractall(folder / file.stem)
        classes = folder / file.stem / "classes.jar"
        if classes.exists():
            jar = folder / f"{file.stem}.jar"
            jar.unlink(missing_ok=True)
            jar.hardlink_to(classes)


def jars(name: str) -> list[Path]:
    """The classes of a set."""
    return sorted((LIBRARY / name).glob("*.jar"))


def jar(name: str, beginning: str) -> Path:
    """One of a set's jars."""
    return next(path for path in jars(name) if path.name.startswith(beginning))


def _plugin() -> str:
    return f"org.apache.maven.plugins:maven-dependency-plugin:{version('maven-dependency-plugin')}"


def _maven(pom: Path, *arguments: str) -> None:
    run([need("mvn", "maven"), "-B", "-q", "-Dstyle.color=never", "-f", pom, *arguments])


def _project(content: str) -> str:
    return (
        "<project><modelVersion>4.0.0</modelVersion><groupId>pocketstep</groupId><artifactId>android</artifactId>"
        f"<version>0</version><packaging>pom</packaging>{content}</project>"
    )


def java_version() -> int:
    """The major version of the JDK."""
    text = subprocess.run(
        [need("java", "openjdk-17-jdk"), "-version"], capture_output=True, text=True, check=True
    ).stderr
    match = re.search(r'"(\d+)', text)
    if not match:
        stop("java -version says nothing that is understood", MISSING)
    return int(match[1])
