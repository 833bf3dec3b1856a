"""Validation on emulated machines and over a real ssh: minutes, and Debian's packages from the network."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from broken import broken_copy

from pocketstep.validate.board import Board, free_port, running, start
from pocketstep.validate.errors import TargetError
from pocketstep.validate.image import board_image
from pocketstep.validate.outcome import Outcome
from pocketstep.validate.run import Settings, validate
from pocketstep.validate.shell import SshShell
from pocketstep.validate.ssh import SshTarget
from pocketstep.validate.target import Job, Target
from pocketstep.validate.targets import open_target
from pocketstep.validate.tools import need

pytestmark = pytest.mark.slow
BOARD = ("qemu-system-aarch64", "mke2fs", "ssh", "ssh-keygen", "apt-get", "dpkg-deb")


def require(*tools: str) -> None:
    for tool in tools:
        try:
            need(tool)
        except TargetError as missing:
            pytest.skip(str(missing))


def until(true: Callable[[], bool], seconds: float = 180.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.2)


def command_lines() -> list[str]:
    """Of every process."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found.append(path.read_text())
    return found


def ask(target: Target, bundle: Path, runtime: str) -> Outcome:
    (found,) = validate([bundle], [target], Settings(runtimes=(runtime,)))
    return found


@pytest.mark.parametrize(
    ("target", "runtime"),
    [("emulator:aarch64", "litert"), ("emulator:aarch64", "tflite"), ("emulator:armv7", "tflite")],
)
def test_emulated_userland(target: str, runtime: str, bundle_path: Path, tmp_path: Path) -> None:
    require("qemu-aarch64-static", "qemu-arm-static", "apt-get", "dpkg-deb")
    good = ask(open_target(target), bundle_path, runtime)
    assert (good.status, good.agreement) == ("passed", 1.0), good.reason
    copy = broken_copy(bundle_path, tmp_path, ("program.tflite",))
    bad = ask(open_target(target), copy, runtime)
    assert (bad.status, bad.kind) == ("failed", "golden trace")


def test_what_has_no_wheel_says_so(bundle_path: Path) -> None:
    found = ask(open_target("emulator:armv7"), bundle_path, "litert")
    assert (found.status, found.reason) == ("unsupported", "ai-edge-litert 2.3.0 has no wheel for armv7")


def test_the_whole_board(bundle_path: Path, tmp_path: Path) -> None:
    require(*BOARD)
    copy = broken_copy(bundle_path, tmp_path, ("program.tflite",))
    good, bad = validate([bundle_path, copy], [open_target("emulator:board")], Settings(runtimes=("litert",)))
    assert (good.status, good.agreement) == ("passed", 1.0), good.reason
    assert good.report is not None
    assert good.report["device"]["machine"] == "aarch64"
    assert (bad.status, bad.kind) == ("failed", "golden trace"), bad.reason


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_board(
    number: signal.Signals, bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require(*BOARD)
    board_image()
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # the board's folder, and so its process, is known by it
    words = ["validate", str(bundle_path), "--target", "emulator:board", "--no-learning"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    process = subprocess.Popen([sys.executable, "-m", "pocketstep", *words], start_new_session=True)
    signal.signal(signal.SIGINT, before)
    try:
        until(lambda: any(running(folder) for folder in tmp_path.glob("pocketstep-board-*")))
        process.send_signal(number)
        assert process.wait(60) == 128 + number
    finally:
        process.kill()
        for folder in tmp_path.glob("pocketstep-board-*"):
            if (left := running(folder)) is not None:
                left.cut()
    assert not [line for line in command_lines() if "qemu" in line and str(tmp_path) in line]
    assert not list(tmp_path.glob("pocketstep-board-*"))


def test_a_signal_stops_a_board_that_is_starting(bundle_path: Path, tmp_path: Path) -> None:
    require(*BOARD)
    board_image()
    words = ["--folder", str(tmp_path), "start"]
    process = subprocess.Popen([sys.executable, "-m", "pocketstep.validate.board_cli", *words])
    until(lambda: any("qemu" in line and str(tmp_path) in line for line in command_lines()))
    process.terminate()
    assert process.wait(30) == 128 + signal.SIGTERM
    assert not [line for line in command_lines() if "qemu" in line and str(tmp_path) in line]


def test_a_board_that_died_is_started_again(bundle_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require(*BOARD)
    boards: list[Board] = []

    def remembered(folder: Path, memory_mb: int) -> Board:
        boards.append(start(folder, memory_mb))
        return boards[-1]

    monkeypatch.setattr("pocketstep.validate.ssh.start", remembered)
    target = open_target("emulator:board")
    job = Job(bundle_path, "litert", threads=2, tolerance=1e-4, timeout=600.0, learning=False)
    try:
        target.prepare()
        boards[0].cut()
        with pytest.raises(TargetError, match="died in the middle"):
            target.validate(job)
        assert target.validate(job).startswith(b"{")
    finally:
        target.close()
    assert [board.alive for board in boards] == [False, False]


def test_a_board_keeps_its_data_when_its_power_is_cut(tmp_path: Path) -> None:
    require(*BOARD)
    board = start(tmp_path, memory_mb=128)
    with pytest.raises(TargetError, match="running already"):
        start(tmp_path)
    assert board.run("cat > /data/kept; sync", input=b"kept").returncode == 0
    other = running(tmp_path)
    assert other is not None
    assert other.pid == board.pid
    board.cut()
    with pytest.raises(TargetError, match="died in the middle"):
        board.run("true")
    with start(tmp_path, memory_mb=128) as again:
        assert again.run("cat /data/kept").stdout == b"kept"
        again.get("/data/kept", tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == b"kept"
    assert running(tmp_path) is None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SshShell]:
    """This machine's own sshd, with keys of its own, on the loopback."""
    sshd = shutil.which("sshd", path="/usr/sbin:/usr/bin")
    if sshd is None:
        pytest.skip("sshd is not installed: apt-get install openssh-server")
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
    port = free_port()
    settings = [f"Port={port}", "ListenAddress=127.0.0.1", "StrictModes=no", "UsePAM=no",
                f"HostKey={tmp_path / 'host'}",
                f"AuthorizedKeysFile={tmp_path / 'user.pub'}", f"PidFile={tmp_path / 'pid'}"]  # fmt: skip
    with suppress(OSError):
        Path("/run/sshd").mkdir(exist_ok=True)
    words = [word for setting in settings for word in ("-o", setting)]
    process = subprocess.Popen([sshd, "-D", "-e", "-f", "/dev/null", *words], stderr=subprocess.DEVNULL)
    options = ["-F", "none", "-i", str(tmp_path / "user")]
    for setting in ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"):
        options += ["-o", setting]
    yield SshShell("127.0.0.1", port, options)
    process.terminate()
    process.wait(10)


def test_a_real_ssh(server: SshShell, bundle_path: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    found = ask(SshTarget("ssh", "", None, str(work), server), bundle_path, "litert")
    assert (found.status, found.agreement) == ("passed", 1.0), found.reason
    assert list(work.iterdir()) == []
    copy = broken_copy(bundle_path, tmp_path / "copies", ("program.tflite",))
    bad = ask(SshTarget("ssh", "", None, str(work), server), copy, "litert")
    assert (bad.status, bad.kind) == ("failed", "golden trace"), bad.reason
    assert list(work.iterdir()) == []
