"""A whole emulated aarch64 board: QEMU, Debian's kernel, two disks, ssh on a free port of the loopback."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from pocketstep.validate.errors import TargetError
from pocketstep.validate.image import board_image, make_data_image
from pocketstep.validate.shell import SshShell
from pocketstep.validate.stopping import check
from pocketstep.validate.tools import Completed, last_lines, need

DATA_MB = 1024
"""Size of ``/data``; the image is sparse."""
MEMORY_MB = 256
_BOOT = 120.0
_STOP = 30.0
_RUNNING = "running.json"


@dataclass(frozen=True)
class Board:
    """A board that runs. Use :func:`start`; as a context manager it stops at the end.

    Attributes:
        folder: holds ``data.ext4`` (the board's ``/data``, all that outlives it), ``console.log``, ``running.json``.
        port: of ssh, on the loopback.
        pid: QEMU's.
        shell: how it is spoken to.
        boot_seconds: from QEMU's start until ssh answered.
    """

    folder: Path
    port: int
    pid: int
    shell: SshShell
    boot_seconds: float

    def run(self, command: str, input: bytes | None = None, timeout: float = 600.0) -> Completed:
        """Runs a shell command there as root; see :meth:`SshShell.run`.

        Raises:
            TargetError: the board died or hangs.
        """
        try:
            return self.shell.run(command, input, timeout)
        except TargetError as error:
            raise self.explained(error) from error

    def put(self, local: Path, remote: str) -> None:
        """Copies a file or folder to the board."""
        self.shell.put(local, remote)

    def get(self, remote: str, local: Path) -> None:
        """Copies a file or folder from the board."""
        self.shell.get(remote, local)

    @property
    def alive(self) -> bool:
        """Whether QEMU runs."""
        return _alive(self.pid)

    def explained(self, error: TargetError) -> TargetError:
        """The same error, or that the board died, with the last lines of its console."""
        if self.alive:
            return error
        console = (self.folder / "console.log").read_bytes() if (self.folder / "console.log").exists() else b""
        return TargetError("died", f"the emulated board died in the middle; its console: {last_lines(console)}")

    def cut(self) -> None:
        """Cuts the power: kills QEMU at once. What the board's disk had taken is there at the next start."""
        _kill(self.pid, signal.SIGKILL)
        _forget(self.folder)

    def stop(self) -> None:
        """Shuts down as a board does; kills it when that takes longer than half a minute."""
        with contextlib.suppress(TargetError):
            self.shell.run("poweroff", timeout=_STOP)
        if not _ended(self.pid, _STOP):
            _kill(self.pid, signal.SIGKILL)
        _forget(self.folder)

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start(folder: Path, memory_mb: int = MEMORY_MB, processors: int = 2, data_mb: int = DATA_MB) -> Board:
    """Starts a board and waits until ssh answers; makes the image (once, about a minute) and the data disk.

    Args:
        folder: of this board; made when missing. Starting again in it finds its ``/data`` as it was left.
        memory_mb: its memory.
        processors: how many.
        data_mb: size of ``/data`` where it is made.

    Raises:
        TargetError: QEMU is missing, the board runs already, or it did not come up.
    """
    qemu, image = need("qemu-system-aarch64"), board_image()
    folder.mkdir(parents=True, exist_ok=True)
    if (other := running(folder)) is not None:
        raise TargetError("setup", f"the board in {folder} is running already (process {other.pid}); stop it first")
    if not (folder / "data.ext4").exists():
        make_data_image(folder / "data.ext4", data_mb)
    port, began = free_port(), time.monotonic()
    with (folder / "console.log").open("wb") as console:
        command = [qemu, *_machine(image, folder, port, memory_mb, processors)]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT, start_new_session=True
        )
    board = Board(folder, port, process.pid, _shell(image, port), 0.0)
    try:
        _wait_for_ssh(board, process, began)
    except BaseException:
        board.cut()
        process.wait()
        raise
    board = Board(folder, port, process.pid, board.shell, time.monotonic() - began)
    kept = {"pid": board.pid, "port": port, "image": str(image), "boot_seconds": board.boot_seconds}
    (folder / _RUNNING).write_text(json.dumps(kept))
    return board


def running(folder: Path) -> Board | None:
    """The board that runs in a folder, also when another process started it."""
    try:
        kept = json.loads((folder / _RUNNING).read_text())
    except (OSError, ValueError):
        return None
    if not _alive(kept["pid"]) or str(folder) not in _command_line(kept["pid"]):
        return None
    shell = _shell(Path(kept["image"]), kept["port"])
    return Board(folder, kept["port"], kept["pid"], shell, kept["boot_seconds"])


def _machine(image: Path, folder: Path, port: int, memory_mb: int, processors: int) -> list[str]:
    """QEMU's arguments. Devices are on PCI: by MMIO the two disks would come up swapped."""
    return [
        "-M", "virt", "-cpu", "cortex-a72", "-smp", str(processors), "-m", str(memory_mb),
        "-accel", "tcg,thread=multi", "-nographic", "-monitor", "none", "-serial", "stdio", "-no-reboot",
        "-kernel", str(image / "kernel"), "-initrd", str(image / "initrd.gz"),
        "-append", "console=ttyAMA0 quiet panic=1",
        "-drive", f"file={image / 'root.ext4'},format=raw,if=none,id=root,readonly=on",
        "-device", "virtio-blk-pci,drive=root",
        "-drive", f"file={folder / 'data.ext4'},format=raw,if=none,id=data",
        "-device", "virtio-blk-pci,drive=data",
        "-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22",
        "-device", "virtio-net-pci,netdev=net,romfile=", "-device", "virtio-rng-pci",
    ]  # fmt: skip


def _shell(image: Path, port: int) -> SshShell:
    settings = ("IdentitiesOnly=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR")
    options = ["-F", "none", "-i", str(image / "id_ed25519")]
    return SshShell("root@127.0.0.1", port, [*options, *(word for s in settings for word in ("-o", s))])


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for_ssh(board: Board, process: subprocess.Popen[bytes], began: float) -> None:
    """QEMU accepts connections from the start, so what counts is the server's greeting."""
    while time.monotonic() - began < _BOOT:
        if process.poll() is not None:
            raise board.explained(TargetError("died", "the emulated board ended; run again"))
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", board.port), 2) as connection:
            connection.settimeout(1 + (time.monotonic() - began) / 10)  # one from before the network is up gets none
            if connection.recv(4) == b"SSH-":
                board.shell.checked("true", "Logging in")
                return
        check()
        time.sleep(0.2)
    console = last_lines((board.folder / "console.log").read_bytes())
    raise TargetError("timeout", f"the emulated board did not answer within {_BOOT:.0f} s; its console: {console}")


def _alive(pid: int) -> bool:
    """Whether a process runs; one of ours that has ended is buried."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def _ended(pid: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while _alive(pid):
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def _kill(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
    _ended(pid, _STOP)


def _forget(folder: Path) -> None:
    (folder / _RUNNING).unlink(missing_ok=True)
