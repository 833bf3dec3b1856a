"""The app's manifest and resources: merged with those of the libraries, and linked by Debian's aapt2."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from androidlib.artifacts import LIBRARY, jars, version
from androidlib.compiling import GENERATED, JAVA_FLAGS
from androidlib.paths import APP, BUILD, need, run, stop

PACKAGE = "pocketstep.app"
OUT = BUILD / "apk"
RULES = OUT / "rules.pro"  # what manifest and layouts name, for R8
MODULES = ("learner", "learner-litert")
_UNUSED_BY_LITERT = ("fbjni", "nativeloader")


@dataclass(frozen=True)
class Linked:
    """What aapt2 made: a package of manifest and resources, without code."""

    package: Path
    manifest: Path


def libraries() -> list[Path]:
    """The folders of the AARs that the app takes: those of its modules' runtime, not of others."""
    folders = (path for path in sorted((LIBRARY / "app").iterdir()) if path.is_dir())
    return [path for path in folders if not path.name.startswith(_UNUSED_BY_LITERT)]


def classes() -> list[Path]:
    """The jars of the app's libraries, without what only ExecuTorch needs."""
    return [path for path in jars("app") if not path.name.startswith(_UNUSED_BY_LITERT)]


def link(debug: bool = False) -> Linked:
    """Merges, compiles and links, unless nothing changed since the last time; ``debug`` marks the app as debuggable."""
    linked = Linked(OUT / ("debug.apk" if debug else "resources.apk"), OUT / "AndroidManifest.xml")
    sources = sorted(path for path in (APP / "app" / "src" / "main").rglob("*.xml"))
    sources += [APP / name / "src" / "main" / "AndroidManifest.xml" for name in MODULES]
    digest = hashlib.sha256(Path(__file__).read_bytes() + "\n".join(map(str, libraries())).encode())
    for source in sources:
        digest.update(str(source).encode() + (source.read_bytes() if source.exists() else b""))
    stamp = linked.package.with_suffix(".stamp")
    if stamp.exists() and stamp.read_text() == digest.hexdigest():
        return linked
    shutil.rmtree(OUT / "compiled", ignore_errors=True)
    (OUT / "compiled").mkdir(parents=True)
    _merge(linked.manifest)
    _link(linked, [*_compile_libraries(), _compile(APP / "app" / "src" / "main" / "res", "app")], debug)
    stamp.write_text(digest.hexdigest())
    return linked


def for_robolectric() -> Path:
    """A folder for the class path of tests that says where the app's resources are."""
    linked = link()
    file = OUT / "robolectric" / "com" / "android" / "tools" / "test_config.properties"
    file.parent.mkdir(parents=True, exist_ok=True)
    values = {
        "android_custom_package": PACKAGE,
        "android_merged_manifest": linked.manifest,
        "android_merged_assets": OUT / "no-assets",
        "android_resource_apk": linked.package,
    }
    (OUT / "no-assets").mkdir(exist_ok=True)
    file.write_text("".join(f"{key}={value}\n" for key, value in values.items()))
    return OUT / "robolectric"


def _merge(target: Path) -> None:
    """The app's manifest with those of its libraries, by Android's own merger."""
    manifests = [_with_package(name) for name in MODULES]
    manifests += [folder / "AndroidManifest.xml" for folder in libraries()]
    main = OUT / "manifests" / "app.xml"
    # As Gradle does from API 23 on: native libraries are mapped from the APK, not unpacked.
    text = (APP / "app" / "src" / "main" / "AndroidManifest.xml").read_text()
    main.write_text(text.replace("<application", '<application android:extractNativeLibs="false"', 1))
    properties = {
        "PACKAGE": PACKAGE,
        "MIN_SDK_VERSION": version("minSdk"),
        "TARGET_SDK_VERSION": version("targetSdk"),
        "VERSION_CODE": version("appVersionCode"),
        "VERSION_NAME": version("appVersion"),
    }
    run(
        [need("java", "openjdk-17-jdk"), *JAVA_FLAGS, "-cp", ":".join(map(str, jars("merger"))),
         "com.android.manifmerger.Merger", "--main", main,
         "--libs", ":".join(str(path) for path in manifests if path and path.exists()),
         *(part for key, value in properties.items() for part in ("--property", f"{key}={value}")),
         "--remove-tools-declarations", "--out", target]
    )  # fmt: skip


def _with_package(module: str) -> Path | None:
    """A module's manifest with what Gradle would write into it: its namespace, and the systems that it is for."""
    source = APP / module / "src" / "main" / "AndroidManifest.xml"
    match = re.search(r'namespace = "([\w.]+)"', (APP / module / "build.gradle.kts").read_text())
    if not source.exists() or not match:
        return None
    target = OUT / "manifests" / f"{module}.xml"
    target.parent.mkdir(exist_ok=True)
    uses = f'<uses-sdk android:minSdkVersion="{version("minSdk")}" android:targetSdkVersion="{version("targetSdk")}" />'
    text = source.read_text().replace("<manifest ", f'<manifest package="{match[1]}" ', 1)
    target.write_text(text.replace("<application", f"{uses}<application", 1))
    return target


def _compile_libraries() -> list[Path]:
    folders = [path for path in libraries() if (path / "res").is_dir()]
    return [_compile(path / "res", path.name) for path in folders]


def _compile(folder: Path, name: str) -> Path:
    target = OUT / "compiled" / f"{name}.zip"
    _aapt2("compile", "--dir", folder, "-o", target)
    return target


def _packages() -> list[str]:
    """Packages of libraries whose code reads resources."""
    found = []
    for folder in libraries():
        listed = folder / "R.txt"
        if listed.exists() and listed.stat().st_size:
            match = re.search(r'package="([\w.]+)"', (folder / "AndroidManifest.xml").read_text())
            found += [match[1]] if match else []
    return found


def _link(linked: Linked, compiled: list[Path], debug: bool) -> None:
    shutil.rmtree(GENERATED, ignore_errors=True)
    overlays = [part for path in compiled for part in ("-R", path)]
    _aapt2(
        "link", "-I", jars("sdk")[0], "--manifest", linked.manifest, "--auto-add-overlay",
        "--java", GENERATED, "--extra-packages", ":".join(_packages()), "-c", "en,de", "-o", linked.package,
        "--proguard", RULES, *(["--debug-mode"] if debug else []),
        "--min-sdk-version", version("minSdk"), "--target-sdk-version", version("targetSdk"), *overlays,
    )  # fmt: skip


def _aapt2(*arguments: str | Path) -> None:
    """Debian's is older than android-all and says so at every call: it is heard only when it fails."""
    command = [need("aapt2", "aapt"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        stop(f"aapt2 {arguments[0]} ended with {done.returncode}\n{done.stderr}")
