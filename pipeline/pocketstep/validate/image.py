"""The emulated board's files: kernel, first RAM disk, root image and key, made once from Debian's packages."""

from __future__ import annotations

import gzip
import re
import shutil
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path

from pocketstep.validate.cache import cached, key
from pocketstep.validate.debian import BASE, PYTHON, SUITE, unpack, unpack_kernel
from pocketstep.validate.machines import AARCH64
from pocketstep.validate.tools import checked, need
from pocketstep.validate.wheels import compile_for

KERNEL = "linux-image-cloud-arm64"
PACKAGES = (*BASE, "busybox-static", "dropbear-bin")
_FILES = ("initrd_init", "inittab", "rc.start", "rc.stop", "applets")
_MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "virtio-rng", "ext4")
_REVISION = "2"


def board_image() -> Path:
    """The folder with ``kernel``, ``initrd.gz``, ``root.ext4`` (mounted read-only), ``id_ed25519``, ``packages.txt``.

    Raises:
        TargetError: a tool or the network is missing.
    """
    for tool in ("apt-get", "dpkg-deb", "mke2fs", "ssh-keygen"):
        need(tool)
    texts = [_text(name) for name in _FILES]
    name = key(SUITE, KERNEL, *PACKAGES, *_MODULES, *texts, _REVISION)
    return cached(f"boards/aarch64-{name}", _make)


def _make(folder: Path) -> None:
    key_file = folder / "id_ed25519"
    words: list[str | Path] = ["-q", "-t", "ed25519", "-N", "", "-C", "emulated-board", "-f", key_file]
    checked([need("ssh-keygen"), *words], 60, "Making the board's key")
    root, kernel = folder / "root", folder / "linux"
    for part in (root, kernel):
        part.mkdir()
    unpack(PACKAGES, AARCH64.debian, root)
    unpack_kernel(KERNEL, AARCH64.debian, kernel)
    packages = [*(root / "packages.txt").read_text().split(), *(kernel / "packages.txt").read_text().split()]
    (folder / "packages.txt").write_text("".join(f"{package}\n" for package in packages))
    shutil.copy(next((kernel / "boot").glob("vmlinuz-*")), folder / "kernel")
    _write_initrd(root / "bin" / "busybox", kernel, folder / "initrd.gz")
    _furnish(root, key_file.with_suffix(".pub").read_text())
    _format(folder / "root.ext4", root)
    shutil.rmtree(root)
    shutil.rmtree(kernel)


def _text(name: str) -> str:
    return (files("pocketstep.validate") / "board_files" / name).read_text()


def _furnish(root: Path, public_key: str) -> None:
    """What packages do not bring: init's files, accounts, empty folders to mount on, busybox's names."""
    for folder in ("dev", "proc", "sys", "run", "root", "data", "tmp", "etc"):
        (root / folder).mkdir(exist_ok=True)
    contents = {
        "etc/inittab": _text("inittab"),
        "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
        "etc/group": "root:x:0:\n",
        "etc/hosts": "127.0.0.1 localhost emulated-board\n",
        "etc/authorized_keys": public_key,
    }
    for name, text in contents.items():
        (root / name).write_text(text)
    for name in ("rc.start", "rc.stop"):
        (root / "etc" / name).write_text(_text(name))
        (root / "etc" / name).chmod(0o755)
    shutil.rmtree(root / "etc" / "dropbear", ignore_errors=True)
    (root / "etc" / "dropbear").symlink_to("/data/dropbear")
    for applet in _text("applets").split():
        path = root / "bin" / applet
        if not path.exists() and not path.is_symlink():
            path.symlink_to("busybox")
    compile_for(root / "usr" / "lib", PYTHON)
    (root / "usr" / "bin" / "python3").symlink_to(f"python{PYTHON}")


def _format(image: Path, root: Path) -> None:
    """An ext4 image of a folder, without root and without mounting."""
    used = sum(path.lstat().st_size for path in root.rglob("*")) // 2**20
    _make_ext4(["-d", root, image, f"{int(used * 1.4) + 64}M"], "root")


def make_data_image(image: Path, megabytes: int) -> None:
    """An empty, sparse ext4 image for the board's ``/data``."""
    _make_ext4([image, f"{megabytes}M"], "data")


def _make_ext4(words: Sequence[str | Path], what: str) -> None:
    options = ("-q", "-t", "ext4", "-E", "root_owner=0:0")
    checked([need("mke2fs"), *options, *words], 300, f"Making the board's {what} image")


def _write_initrd(busybox: Path, kernel: Path, target: Path) -> None:
    order = _module_files(kernel)
    entries = [(folder, 0o40755, b"") for folder in ("bin", "dev", "proc", "root", "modules")]
    entries += [("bin/busybox", 0o100755, busybox.read_bytes()), ("init", 0o100755, _text("initrd_init").encode())]
    entries += [(f"modules/{path.name}", 0o100644, path.read_bytes()) for path in order]
    entries.append(("modules/order", 0o100644, "\n".join(path.name for path in order).encode()))
    target.write_bytes(gzip.compress(_cpio(entries), 6))


def _module_files(kernel: Path) -> list[Path]:
    """The modules that the board needs and those that they need, in the order of loading; built-in ones have none."""
    known = {path.stem.replace("-", "_"): path for path in kernel.rglob("*.ko")}
    order: list[Path] = []

    def add(name: str) -> None:
        path = known.get(name.replace("-", "_"))
        if path is None or path in order:
            return
        found = re.search(rb"\0depends=([^\0]*)\0", path.read_bytes())
        needed = found[1].decode().split(",") if found else []
        soft = re.findall(rb"\0softdep=pre: ([^\0]*)\0", path.read_bytes())
        for other in [*needed, *(word for text in soft for word in text.decode().split())]:
            add(other)
        order.append(path)

    for name in _MODULES:
        add(name)
    return order


def _cpio(entries: Iterable[tuple[str, int, bytes]]) -> bytes:
    """An archive of (name, mode, content) in the kernel's format, "newc" (Documentation/driver-api/early-userspace)."""
    result = bytearray()
    for number, (name, mode, content) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        result += b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        result += bytes(-len(result) % 4) + content
        result += bytes(-len(result) % 4)
    return bytes(result)
