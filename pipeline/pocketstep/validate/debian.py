"""Debian's packages of another architecture, unpacked into a folder: no root, chroot, binfmt or debootstrap."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from pocketstep.validate.errors import TargetError
from pocketstep.validate.tools import checked, last_lines, need, run

SUITE = "bookworm"
PYTHON = "3.11"
"""Of the suite; the last that tflite-runtime has wheels for."""
BASE = (f"python{PYTHON}-minimal", f"libpython{PYTHON}-stdlib", "libstdc++6", "libgcc-s1")
"""What a Python program needs."""
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_MIRROR = "http://deb.debian.org/debian"
_TIMEOUT = 600.0
_UNUSED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/lintian")


def unpack(packages: Sequence[str], architecture: str, root: Path) -> None:
    """Fetches packages with their dependencies and unpacks them; ``packages.txt`` lists their exact versions.

    Args:
        packages: names.
        architecture: Debian's word for it, such as ``arm64``.
        root: an empty folder.

    Raises:
        TargetError: apt or the network is missing, or a package is unknown.
    """
    apt = _Apt(root / ".apt", architecture)
    apt.get("--download-only", "--yes", "install", *packages)
    _extract(apt, root)


def unpack_kernel(package: str, architecture: str, root: Path) -> None:
    """The kernel behind a package such as ``linux-image-cloud-arm64``, without what it depends on.

    Args:
        package: the name that always stands for the newest one.
        architecture: as for :func:`unpack`.
        root: an empty folder.

    Raises:
        TargetError: as :func:`unpack`.
    """
    apt = _Apt(root / ".apt", architecture)
    about = checked([need("apt-cache"), *apt.options, "show", package], _TIMEOUT, f"Looking for {package}").decode()
    found = re.search(r"^Depends: (linux-image-[\w.+~-]+)", about, re.MULTILINE)
    if found is None:
        raise TargetError("setup", f"{package} names no kernel; the Debian suite {SUITE} may have changed")
    apt.get("--download-only", "--yes", "--no-install-recommends", "install", f"{found[1]}")
    for archive in apt.archives.glob("*.deb"):
        if not archive.name.startswith("linux-image"):
            archive.unlink()
    _extract(apt, root)


class _Apt:
    """apt-get with folders of its own, so that it neither asks for nor changes anything of this machine."""

    def __init__(self, folder: Path, architecture: str) -> None:
        for part in ("state/lists/partial", "cache/archives/partial"):
            (folder / part).mkdir(parents=True)
        (folder / "status").touch()
        self.archives = folder / "cache" / "archives"
        settings = {
            "Dir::State": folder / "state",
            "Dir::State::status": folder / "status",
            "Dir::Cache": folder / "cache",
            "APT::Architecture": architecture,
            "APT::Architectures": architecture,
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "",
            "Acquire::Languages": "none",
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
            "Acquire::Retries": "3",
            **_sources(folder),
        }
        self.options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
        self.folder = folder
        update = [need("apt-get"), "-qq", *self.options, "update"]
        self._said = run(update, _TIMEOUT).stderr  # a mirror in mid-sync lacks one index of several: not fatal yet

    def get(self, *words: str) -> None:
        """One command of apt-get."""
        done = run([need("apt-get"), "-qq", *self.options, *words], _TIMEOUT)
        if done.returncode:
            said = last_lines(self._said + done.stderr)
            raise TargetError("setup", f"Fetching Debian's packages (apt-get {' '.join(words[-2:])}) failed: {said}")


def _sources(folder: Path) -> dict[str, object]:
    """The machine's own sources where they are the suite's, else Debian's mirror."""
    release = Path("/etc/os-release")
    if release.exists() and f"VERSION_CODENAME={SUITE}" in release.read_text():
        return {}
    if not _KEYRING.exists():
        raise TargetError("missing tool", "Debian's keys are missing: apt-get install debian-archive-keyring")
    (folder / "sources.list").write_text(f"deb [signed-by={_KEYRING}] {_MIRROR} {SUITE} main\n")
    return {"Dir::Etc::sourcelist": folder / "sources.list", "Dir::Etc::sourceparts": "/dev/null"}


def _extract(apt: _Apt, root: Path) -> None:
    archives = sorted(apt.archives.glob("*.deb"))
    for archive in archives:
        checked([need("dpkg-deb"), "-x", archive, root], _TIMEOUT, f"Unpacking {archive.name}")
    (root / "packages.txt").write_text("".join(f"{archive.stem}\n" for archive in archives))
    shutil.rmtree(apt.folder)
    for folder in _UNUSED:
        shutil.rmtree(root / folder, ignore_errors=True)
