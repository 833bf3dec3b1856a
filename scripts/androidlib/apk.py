"""A signed debug APK of the demo app, without Gradle or an SDK; checked, and its size told by part."""

from __future__ import annotations

import re
import struct
import subprocess
import zipfile
from pathlib import Path

from androidlib import dexing, resources
from androidlib.artifacts import LIBRARY, jars, version
from androidlib.compiling import JAVA_FLAGS
from androidlib.executorch import ABIS
from androidlib.paths import APP, FAILED, need, run, stop

ASSETS = APP / "app" / "src" / "main" / "assets"
SIGNER = Path(__file__).with_name("Sign.java")
PASSWORD = "android"  # of the debug key, which is made here and protects nothing
PAGE = 16 * 1024
_LOAD = 1


def build(is_shrunk: bool) -> None:
    """Packs, signs and checks it; prints what it is made of."""
    linked = resources.link(debug=True)
    code = dexing.shrink() if is_shrunk else dexing.dex()
    files = [file for part in code.values() for file in part]
    unsigned, signed = resources.OUT / "unsigned.apk", resources.OUT / "pocketstep-debug.apk"
    if not ASSETS.is_dir() or not any(ASSETS.iterdir()):
        print("no bundle in the app: it will say so; scripts/android bundle PATH puts one in place")
    _pack(linked.package, files, unsigned)
    sign(unsigned, signed)
    check(signed)
    show(signed, {f"classes{index or ''}.dex": part for index, part in _numbered(code)})
    print(signed)


def _numbered(code: dict[str, list[Path]]) -> list[tuple[int | None, str]]:
    """Dex files as Android numbers them: ``classes.dex``, ``classes2.dex`` and on, each with its part."""
    owners = [part for part, files in code.items() for _ in files]
    return [(index + 1 if index else None, part) for index, part in enumerate(owners)]


def _pack(package: Path, dex: list[Path], target: Path) -> None:
    """aapt2's package with code, native libraries (stored: they are mapped from the APK) and assets."""
    target.write_bytes(package.read_bytes())
    with zipfile.ZipFile(target, "a", zipfile.ZIP_DEFLATED) as archive:
        for index, file in enumerate(dex):
            archive.write(file, f"classes{index + 1 if index else ''}.dex")
        for abi in ABIS:
            for library in native(abi):
                archive.write(library, f"lib/{abi}/{library.name}", zipfile.ZIP_STORED)
        for asset in sorted(path for path in ASSETS.rglob("*") if path.is_file()):
            archive.write(asset, f"assets/{asset.relative_to(ASSETS).as_posix()}")


def native(abi: str) -> list[Path]:
    """The runtime's libraries for a kind of processor."""
    return sorted((LIBRARY / "app").glob(f"tensorflow-lite-2*/jni/{abi}/*.so"))


def sign(unsigned: Path, signed: Path) -> None:
    """Aligns and signs an APK with the debug key, which is made once on this machine, and verifies it."""
    key = resources.OUT / "debug.p12"
    if not key.exists():
        run(
            [need("keytool", "openjdk-17-jdk"), "-genkeypair", "-keystore", key, "-storetype", "PKCS12", "-storepass",
             PASSWORD, "-alias", "debug", "-keyalg", "RSA", "-keysize", "2048", "-validity", "10000",
             "-dname", "CN=Android Debug"]
        )  # fmt: skip
    run(
        [need("java", "openjdk-17-jdk"), *JAVA_FLAGS, "-cp", jars("apksig")[0], SIGNER, key, PASSWORD, unsigned, signed,
         version("minSdk")]
    )  # fmt: skip


def check(apk: Path) -> None:
    """Fails unless Android would see what was meant: names, systems, processors, languages, aligned libraries."""
    shown = subprocess.run(
        [need("aapt2", "aapt"), "dump", "badging", apk], capture_output=True, text=True, check=False
    ).stdout
    for wanted in (
        f"package: name='{resources.PACKAGE}'",
        f"sdkVersion:'{version('minSdk')}'",
        f"targetSdkVersion:'{version('targetSdk')}'",
        "launchable-activity: name='pocketstep.app.MainActivity'",
        "application-debuggable",
        "'de'",
        *(f"'{abi}'" for abi in ABIS),
    ):
        if wanted not in shown:
            stop(f"aapt2 does not find {wanted} in {apk}", FAILED)
    for name, offset in stored(apk).items():
        if name.endswith(".so") and offset % PAGE:
            stop(f"{name} lies at {offset}, which is no multiple of {PAGE}", FAILED)
    print("badging agrees; native libraries begin at pages of 16 KB in the APK")
    for abi in ABIS:
        for library in native(abi):
            small = segment_alignment(library.read_bytes())
            verdict = "fits" if small >= PAGE else "does not fit"
            print(f"{abi}: {library.name} has segments aligned to {small:,} bytes, which {verdict} pages of 16 KB")


def stored(apk: Path) -> dict[str, int]:
    """Where the content of each uncompressed entry begins."""
    data, found = apk.read_bytes(), {}
    with zipfile.ZipFile(apk) as archive:
        for info in archive.infolist():
            if info.compress_type == zipfile.ZIP_STORED:
                name, extra = struct.unpack_from("<HH", data, info.header_offset + 26)
                found[info.filename] = info.header_offset + 30 + name + extra
    return found


def segment_alignment(elf: bytes) -> int:
    """The smallest alignment of a 64-bit ELF file's loaded segments."""
    (table,) = struct.unpack_from("<Q", elf, 32)
    size, count = struct.unpack_from("<HH", elf, 54)
    rows = [struct.unpack_from("<IIQQQQQQ", elf, table + index * size) for index in range(count)]
    return min(row[7] for row in rows if row[0] == _LOAD)


def show(apk: Path, code: dict[str, str]) -> None:
    """Bytes by part, in the APK (as packed) and unpacked."""
    packed: dict[str, list[int]] = {}
    with zipfile.ZipFile(apk) as archive:
        for info in archive.infolist():
            sums = packed.setdefault(_part(info.filename, code), [0, 0])
            sums[0] += info.compress_size
            sums[1] += info.file_size
    total = apk.stat().st_size
    packed["signature, alignment, directory"] = [total - sum(row[0] for row in packed.values()), 0]
    for part, (inside, plain) in packed.items():
        print(f"{part:48} {inside:>11,} {plain:>11,}")
    print(f"{'the APK':48} {total:>11,}")


def _part(name: str, code: dict[str, str]) -> str:
    if name in code:
        return f"dex: {code[name]}"
    if match := re.match(r"lib/([^/]+)/", name):
        return f"native: {match[1]}"
    if name.startswith("assets/"):
        return "bundle"
    return "resources and manifest"
