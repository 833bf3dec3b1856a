"""Programs of the system that validation needs, and how they are run."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from pocketstep.validate.errors import TargetError
from pocketstep.validate.stopping import started

PACKAGES = {
    "qemu-aarch64-static": "qemu-user-static",
    "qemu-arm-static": "qemu-user-static",
    "qemu-system-aarch64": "qemu-system-arm",
    "mke2fs": "e2fsprogs",
    "apt-get": "apt",
    "apt-cache": "apt",
    "dpkg-deb": "dpkg",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "adb": "adb",
}
"""Program -> Debian's package; ``scripts/emulated_board install`` installs those of the emulators."""
_ADMIN = "/usr/sbin:/sbin"
Completed = subprocess.CompletedProcess[bytes]


def need(tool: str) -> str:
    """A program's path.

    Raises:
        TargetError: it is not installed; the message says how to get it.
    """
    found = shutil.which(tool, path=f"{os.environ.get('PATH', os.defpath)}:{_ADMIN}")
    if found is None:
        raise TargetError(
            "missing tool",
            f"{tool} is not installed; on Debian and Ubuntu: apt-get install {PACKAGES[tool]} "
            "(scripts/emulated_board install installs all that the emulators need)",
        )
    return found


def run(
    command: Sequence[str | Path], timeout: float, stdin: bytes | None = None, env: Mapping[str, str] | None = None
) -> Completed:
    """Runs a program to its end, its output kept; any exit status is the caller's to judge.

    Args:
        command: program and arguments.
        timeout: seconds after which it is killed.
        stdin: what it reads; nothing where None.
        env: its environment, ours where None.

    Raises:
        TargetError: it took longer.
        StoppedError: the run was stopped before or meanwhile.
    """
    words = [str(part) for part in command]
    with started(words, env) as process:
        try:
            out, errors = process.communicate(stdin or b"", timeout)
        except subprocess.TimeoutExpired:
            name = Path(words[0]).name
            message = f"{name} did not end within {timeout:.0f} s; give more with --timeout"
            raise TargetError("timeout", message) from None
    return Completed(words, process.returncode, out, errors)


def checked(command: Sequence[str | Path], timeout: float, what: str) -> bytes:
    """As :func:`run`; its standard output.

    Raises:
        TargetError: it failed; the message begins with ``what`` and ends with the last lines of its errors.
    """
    done = run(command, timeout)
    if done.returncode:
        raise TargetError("setup", f"{what} failed: {last_lines(done.stderr or done.stdout)}")
    return done.stdout


def last_lines(output: bytes, count: int = 3) -> str:
    """The last lines of an output, as one sentence's worth of text."""
    lines = [line.strip() for line in output.decode("utf-8", "replace").splitlines() if line.strip()]
    return " / ".join(lines[-count:])[-600:] or "it said nothing"
