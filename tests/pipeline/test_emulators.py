"""Validation on emulated machines and over a real ssh: minutes, and Debian's packages from the network."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from broken import broken_copy

from pocketstep.validate.board import running, start
from pocketstep.validate.errors import TargetError
from pocketstep.validate.outcome import Outcome
from pocketstep.validate.run import Settings, validate
from pocketstep.validate.shell import SshShell
from pocketstep.validate.ssh import SshTarget
from pocketstep.validate.targets import Target, open_target
from pocketstep.validate.tools import need

pytestmark = pytest.mark.slow


def require(*tools: str) -> None:
    for tool in tools:
        try:
            need(tool)
        except TargetError as missing:
            pytest.skip(str(missing))


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


def test_the_whole_board(bundle_path: Path) -> None:
    require("qemu-system-aarch64", "mke2fs", "ssh", "ssh-keygen", "apt-get", "dpkg-deb")
    found = ask(open_target("emulator:board"), bundle_path, "litert")
    assert (found.status, found.agreement) == ("passed", 1.0), found.reason
    assert found.report is not None
    assert found.report["device"]["machine"] == "aarch64"


def test_a_board_keeps_its_data_when_its_power_is_cut(tmp_path: Path) -> None:
    require("qemu-system-aarch64", "mke2fs", "ssh", "ssh-keygen", "apt-get", "dpkg-deb")
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
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
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
