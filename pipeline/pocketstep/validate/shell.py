"""A machine that runs shell commands and takes and gives files, over ssh."""

from __future__ import annotations

import io
import shlex
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pocketstep.validate.errors import TargetError
from pocketstep.validate.tools import Completed, last_lines, need, run

_ALWAYS = ("BatchMode=yes", "ConnectTimeout=10", "ServerAliveInterval=10", "ServerAliveCountMax=3")
_FILES = 600.0


@dataclass(frozen=True)
class SshShell:
    """Commands on a machine over ssh.

    Attributes:
        host: ``user@machine``, or a machine.
        port: None for ssh's own choice.
        options: more of ``ssh``'s options.
    """

    host: str
    port: int | None = None
    options: Sequence[str] = field(default=())

    def run(self, command: str, stdin: bytes | None = None, timeout: float = 600.0) -> Completed:
        """Runs a shell command; any exit status is the caller's to judge.

        Args:
            command: for the machine's shell.
            stdin: what it reads.
            timeout: seconds.

        Raises:
            TargetError: the machine cannot be reached, hung up, or took longer.
        """
        port = ["-p", str(self.port)] if self.port else []
        settings = [word for option in _ALWAYS for word in ("-o", option)]
        done = run([need("ssh"), *settings, *self.options, *port, self.host, command], timeout, stdin)
        if done.returncode == 255:
            raise TargetError("unreachable", f"{self.host}: {last_lines(done.stderr)}")
        return done

    def checked(self, command: str, what: str, stdin: bytes | None = None, timeout: float = 600.0) -> bytes:
        """As :meth:`run`; its standard output.

        Raises:
            TargetError: it failed; the message begins with ``what``. A full disk is told from other reasons.
        """
        done = self.run(command, stdin, timeout)
        if done.returncode:
            said = last_lines(done.stderr)
            kind = "disk full" if "No space left" in said else "setup"
            raise TargetError(kind, f"{what} failed on {self.host}: {said}")
        return done.stdout

    def put(self, local: Path, remote: str) -> None:
        """Copies a file, or a folder with all that is in it, to a path there; folders above it are made.

        Raises:
            TargetError: as :meth:`checked`.
        """
        target = shlex.quote(remote)
        if local.is_dir():
            command = f"mkdir -p {target} && tar -xf - -C {target}"
            self.checked(command, f"Copying {local.name}", _packed(local), _FILES)
        else:
            command = f'mkdir -p "$(dirname {target})" && cat > {target}'
            self.checked(command, f"Copying {local.name}", local.read_bytes(), _FILES)

    def get(self, remote: str, local: Path) -> None:
        """Copies a file, or a folder with all that is in it, from there; ``local`` is its new path.

        Raises:
            TargetError: as :meth:`checked`.
        """
        source = shlex.quote(remote)
        packed = self.checked(
            f"if [ -d {source} ]; then tar -cf - -C {source} .; else cat {source} && exit 0; fi",
            f"Fetching {remote}", timeout=_FILES,
        )  # fmt: skip
        if self.run(f"[ -d {source} ]").returncode:
            local.write_bytes(packed)
            return
        local.mkdir(parents=True, exist_ok=True)
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(local, filter="data")


def _packed(folder: Path) -> bytes:
    """A tar archive of a folder's content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        archive.add(folder, arcname=".", filter=_anonymous)
    return buffer.getvalue()


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without owners."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry
