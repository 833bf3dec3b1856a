"""From classes and native libraries to a signed APK: D8, zip, Debian's zipalign and apksigner."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from androidlib.artifacts import jars, version
from androidlib.compiling import JAVA_FLAGS
from androidlib.paths import BUILD, need, run

KEY = BUILD / "debug.p12"
_PASSWORD = "android"


def dex(output: Path, programs: Sequence[Path], classpath: Sequence[Path]) -> None:
    """Writes ``classes.dex`` of jars and folders of classes, unshrunk, into a zip; others are only looked at."""
    output.parent.mkdir(parents=True, exist_ok=True)
    files = [file for part in programs for file in (sorted(part.rglob("*.class")) if part.is_dir() else [part])]
    known = [item for part in classpath for item in ("--classpath", part)]
    run(
        [need("java", "openjdk-17-jdk"), *JAVA_FLAGS, "-cp", jars("r8")[0], "com.android.tools.r8.D8", "--release",
         "--min-api", version("minSdk"), *system(), *known, "--output", output, *files]
    )  # fmt: skip


def system() -> list[str | Path]:
    """The classes that a device has: Android's, and those of ``java`` that its archive here leaves out."""
    jdk = Path(need("javac", "openjdk-17-jdk")).resolve().parents[1]
    return ["--lib", jars("sdk")[0], "--lib", jdk]


def package(base: Path, code: Path, natives: Mapping[str, Sequence[Path]], target: Path, packed: bool) -> None:
    """A signed APK.

    Args:
        base: what aapt2 linked: manifest and resources.
        code: a zip of ``classes*.dex``.
        natives: libraries by ABI.
        target: the APK.
        packed: whether native libraries are compressed, and unpacked when it is installed; else they are mapped from
            the APK and lie on boundaries of pages.
    """
    whole = target.with_suffix(".unaligned")
    shutil.copy(base, whole)
    with zipfile.ZipFile(code) as dexes, zipfile.ZipFile(whole, "a") as archive:
        for name in dexes.namelist():
            archive.writestr(name, dexes.read(name), zipfile.ZIP_DEFLATED)
        for abi, libraries in natives.items():
            for library in libraries:
                how = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
                archive.write(library, f"lib/{abi}/{library.name}", how)
    aligned = target.with_suffix(".aligned")
    run([need("zipalign", "zipalign"), "-f", "-p", "4", whole, aligned])
    run(
        [need("apksigner", "apksigner"), "sign", "--ks", debug_key(), "--ks-pass", f"pass:{_PASSWORD}",
         "--min-sdk-version", version("minSdk"), "--out", target, aligned]
    )  # fmt: skip
    whole.unlink()
    aligned.unlink()


def debug_key() -> Path:
    """A key for debugging, made once on this machine."""
    if not KEY.exists():
        run(
            [need("keytool", "openjdk-17-jdk"), "-genkeypair", "-keystore", KEY, "-storetype", "PKCS12", "-storepass",
             _PASSWORD, "-alias", "debug", "-keyalg", "RSA", "-keysize", "2048", "-validity", "10000", "-dname",
             "CN=Debug"]
        )  # fmt: skip
    return KEY
