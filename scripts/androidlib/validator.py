"""The validator's APK: an instrumentation that ``pocketstep validate --target adb`` installs, starts and reads."""

from __future__ import annotations

import zipfile
from pathlib import Path

from androidlib.apk import sign
from androidlib.artifacts import LIBRARY, jars, version
from androidlib.compiling import MODULES
from androidlib.dexing import translate
from androidlib.executorch import ABIS, PACKAGE
from androidlib.executorch import FOLDER as EXECUTORCH
from androidlib.executorch import classes as executorch_classes
from androidlib.paths import APP, BUILD, need, run

TARGET = BUILD / "validator.apk"
_MANIFEST = APP / "validator" / "src" / "main" / "AndroidManifest.xml"
_CODE = ("learner", "learner-litert", "learner-executorch", "validator")
_JARS = ("kotlin-stdlib-2", "kotlinx-coroutines", "tensorflow-lite", "fbjni", "nativeloader")


def build() -> None:
    """Writes ``android_app/build/validator.apk``, signed with the debug key, for two ABIs."""
    work = BUILD / "validator"
    work.mkdir(parents=True, exist_ok=True)
    code = [module.classes() for module in MODULES if module.name in _CODE]
    libraries = [path for path in jars("app") if path.name.startswith(_JARS)] + executorch_classes()
    others = [item for path in jars("app") if path not in libraries for item in ("--classpath", path)]
    translate("D8", work / "code.zip", [*code, *libraries], others)
    base = work / "base.apk"
    run([need("aapt2", "aapt"), "link", "-I", jars("sdk")[0], "--manifest", _manifest(work), "-o", base,
         "--min-sdk-version", version("minSdk"), "--target-sdk-version", version("targetSdk"),
         "--version-code", "1", "--version-name", "0.1"])  # fmt: skip
    with zipfile.ZipFile(work / "code.zip") as code_zip, zipfile.ZipFile(base, "a", zipfile.ZIP_DEFLATED) as archive:
        for name in code_zip.namelist():
            archive.writestr(name, code_zip.read(name), zipfile.ZIP_DEFLATED)
        for abi in ABIS:
            for library in natives(abi):  # packed: they are unpacked when the APK is installed, and only then
                archive.write(library, f"lib/{abi}/{library.name}")
    sign(base, TARGET)
    print(f"{TARGET}: {TARGET.stat().st_size:,} bytes")


def _manifest(work: Path) -> Path:
    """The module's manifest with what Gradle would fill in."""
    values = {
        "${litert}": f"tensorflow-lite {version('tensorflow-lite')}",
        "${executorch}": f"{PACKAGE} {version(PACKAGE)}",
        "<manifest ": '<manifest package="pocketstep.validator" ',
    }
    text = _MANIFEST.read_text()
    for placeholder, value in values.items():
        text = text.replace(placeholder, value)
    target = work / "AndroidManifest.xml"
    target.write_text(text)
    return target


def natives(abi: str) -> list[Path]:
    """Both runtimes' libraries for an ABI."""
    litert = next((LIBRARY / "app").glob(f"tensorflow-lite-2*/jni/{abi}/libtensorflowlite_jni.so"))
    fbjni = next((LIBRARY / "app").glob(f"fbjni-*/jni/{abi}"))
    return [litert, fbjni / "libfbjni.so", fbjni / "libc++_shared.so", EXECUTORCH / abi / "libexecutorch.so"]
