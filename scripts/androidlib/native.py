"""Stand-ins for bionic on the desktop, so that an AAR's own x86_64 library runs in a plain JVM.

Every function that the library wants of bionic and that ``bionic.c`` does not have becomes a jump to glibc's of that
name; the first call of one that glibc lacks would crash, so these are named when the stand-ins are loaded.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from androidlib.artifacts import LIBRARY
from androidlib.executorch import FOLDER as EXECUTORCH
from androidlib.paths import BUILD, need, run

NATIVE = BUILD / "native"
SOURCE = Path(__file__).with_name("bionic.c")
ABI = "x86_64"


def stand_ins() -> dict[str, object]:
    """Makes them for each runtime; the system properties that tell tests where they are."""
    litert = next((LIBRARY / "app").glob(f"tensorflow-lite-2*/jni/{ABI}/libtensorflowlite_jni.so"))
    fbjni = next((LIBRARY / "app").glob(f"fbjni-*/jni/{ABI}"))
    executorch = [fbjni / "libc++_shared.so", fbjni / "libfbjni.so", EXECUTORCH / ABI / "libexecutorch.so"]
    return {
        "pocketstep.native.litert": make(NATIVE / "litert", [litert]),
        "pocketstep.native.executorch": make(NATIVE / "executorch", executorch),
    }


def make(folder: Path, libraries: list[Path]) -> Path:
    """A folder with stand-ins and the libraries themselves."""
    stamp = folder / "stamp"
    wanted = f"{SOURCE.read_text()}{Path(__file__).read_text()}{[(str(p), p.stat().st_size) for p in libraries]}"
    if stamp.exists() and stamp.read_text() == wanted:
        return folder
    print(f"making stand-ins for bionic: {folder.name}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    newer = write_jumps(folder, libraries)
    versions = "LIBC { global: *; };\n"
    if newer:
        versions += f"LIBC_N {{ global: {' '.join(f'{name};' for name in sorted(newer))} }} LIBC;\n"
    (folder / "versions.map").write_text(versions)
    flags = ["-O1", "-w", "-fno-builtin", "-shared", "-fPIC", f"-Wl,--version-script={folder / 'versions.map'}"]
    gcc = need("gcc", "gcc")
    run([gcc, *flags, "-I", folder, "-Wl,-soname,libc.so", "-o", folder / "libc.so", SOURCE, "-ldl", "-lm"])
    for name in ("libm", "libdl", "liblog", "libandroid"):
        empty = folder / f"{name}.c"
        empty.write_text(f"int stand_in_for_{name};\n")
        run([gcc, *flags, f"-Wl,-soname,{name}.so", "-o", folder / f"{name}.so", empty])
    for library in libraries:
        shutil.copy(library, folder)
    stamp.write_text(wanted)
    return folder


def write_jumps(folder: Path, libraries: list[Path]) -> set[str]:
    """Writes ``jumps.h``; returns the names that the libraries want of bionic's newer version node."""
    wanted, newer = set(), set()
    for library in libraries:
        listing = subprocess.run(
            [need("nm", "binutils"), "-D", "--undefined-only", library], capture_output=True, text=True, check=True
        ).stdout
        for line in listing.splitlines():
            name, _, node = line.split()[-1].partition("@")
            if node.startswith("LIBC") or name.startswith(("__android", "android_")):
                wanted.add(name)
                newer |= {name} if node == "LIBC_N" else set()
    jumps = sorted(wanted - written_by_hand(SOURCE.read_text()))
    hidden = '__attribute__((visibility("hidden")))'
    declare = " ".join(f"{hidden} void *jump_{name};" for name in jumps)
    resolve = " ".join(
        f'if (!(jump_{name} = host("{name}"))) dprintf(2, "stand-in for bionic: glibc lacks {name}\\n");'
        for name in jumps
    )
    code = "".join(f".globl {n}\\n.type {n},@function\\n{n}: jmp *jump_{n}(%rip)\\n" for n in jumps)
    (folder / "jumps.h").write_text(
        f'#define DECLARE {declare}\n#define RESOLVE {resolve}\n#define JUMPS __asm__(".text\\n{code}");\n'
    )
    return newer


def written_by_hand(source: str) -> set[str]:
    """What ``bionic.c`` defines: its functions, those of its STREAM macros, and its variables."""
    functions = set(re.findall(r"^(?!extern|static|#)(?:\w+[ *]+)+(\w+)\(.*{", source, re.MULTILINE))
    streams = set(re.findall(r"^STREAM_4\((\w+)|^STREAM_[12]\(\w+, (\w+)", source, re.MULTILINE))
    return functions | {first or second for first, second in streams} | {"stdin", "stdout", "stderr", "environ", "__sF"}
