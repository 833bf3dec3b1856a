"""Transports of ``pocketstep validate`` against scripted ``ssh`` and ``adb``: the protocol we speak, and its failures.

The scripts play a machine on this one: the runner that they start is the real one, the network and the device are not.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from pocketstep.validate.outcome import Outcome
from pocketstep.validate.run import Settings, validate
from pocketstep.validate.targets import Target, open_target

SSH = """#!/bin/sh
# ssh [options] host command: the last word is the command; FAKE says what goes wrong.
for word in "$@"; do last="$word"; done
echo "$last" >> "$FAKE_LOG"
case "$FAKE:$last" in
    unreachable:*) echo "ssh: connect to host board port 22: Connection refused" >&2; exit 255 ;;
    full:*"tar -xf"*) cat > /dev/null; echo "tar: write error: No space left on device" >&2; exit 1 ;;
    dies:*pocketstep_device*) echo "Connection to board closed by remote host." >&2; exit 255 ;;
    killed:*pocketstep_device*) exit 137 ;;
    hangs:*pocketstep_device*) exec sleep 60 ;;
    nopython:*python3*) echo "sh: python3: not found" >&2; exit 127 ;;
    silent:*"cat "*report.json*) echo "cat: report.json: No such file" >&2; exit 1 ;;
esac
PATH="$FAKE_BIN:$PATH" exec sh -c "$last"
"""
BOARD_PYTHON = """#!/bin/sh
# The board's python3: -S and the wheels that would be copied are left out, ours stand in for them.
[ "$1" = -S ] && shift
export PYTHONPATH="${PYTHONPATH%%:*}"
exec "$FAKE_PYTHON" "$@"
"""
ADB = """#!/bin/sh
# adb [-s SERIAL] command...; the device's files lie below FAKE_ROOT, an app's in FAKE_ROOT/app.
[ "$1" = -s ] && shift 2
echo "$*" >> "$FAKE_LOG"
[ "$FAKE" = unreachable ] && { echo "adb: no devices/emulators found" >&2; exit 1; }
verb="$1"; shift
inside() { sh -c "cd '$FAKE_ROOT/app' && $(echo "$1" | sed "s#/data/local/tmp#$FAKE_ROOT/tmp#g")"; }
case "$verb" in
    wait-for-device|uninstall) exit 0 ;;
    install) [ "$FAKE" = full ] && { echo "Failure [INSTALL_FAILED_INSUFFICIENT_STORAGE]"; exit 1; }; exit 0 ;;
    push) target="$(echo "$2" | sed "s#/data/local/tmp#$FAKE_ROOT/tmp#")"; cp -r "$1" "$target"; exit 0 ;;
    shell|exec-out)
        case "$1" in
            "run-as pocketstep.validator sh -c "*) inside "$(echo "$1" | sed 's/^run-as pocketstep.validator //')" ;;
            "am instrument"*)
                [ "$FAKE" = dies ] && { echo "INSTRUMENTATION_RESULT: shortMsg=Process crashed."; exit 0; }
                cd "$FAKE_ROOT/app/files" && "$FAKE_PYTHON" -m pocketstep_device validate bundle --json report.json \\
                    --runtime "$(echo "$1" | sed 's/.*-e runtime \\([a-z]*\\).*/\\1/')" --no-learning ;;
            *) inside "$1" ;;
        esac ;;
esac
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Scripted ssh, adb and board; the folder that they log to."""
    binaries, board = tmp_path / "bin", tmp_path / "board"
    for path, text in ((binaries / "ssh", SSH), (binaries / "adb", ADB), (board / "python3", BOARD_PYTHON)):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    wheels, work, apk = tmp_path / "wheels", tmp_path / "work", tmp_path / "validator.apk"
    for folder in (wheels, work, tmp_path / "device" / "app", tmp_path / "device" / "tmp"):
        folder.mkdir(parents=True)
    apk.touch()
    monkeypatch.setattr("pocketstep.validate.ssh.site", lambda *_: wheels)
    settings = {
        "PATH": f"{binaries}:{os.environ['PATH']}", "FAKE": "", "FAKE_LOG": tmp_path / "log", "FAKE_BIN": board,
        "FAKE_PYTHON": sys.executable, "TMPDIR": work, "FAKE_ROOT": tmp_path / "device",
        "POCKETSTEP_VALIDATOR_APK": apk,
    }  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(name, str(value))
    return tmp_path


def ask(target: Target | str, bundle: Path, timeout: float = 300.0) -> Outcome:
    opened = open_target(target) if isinstance(target, str) else target
    opened.runtimes = ("litert",)
    (found,) = validate([bundle], [opened], Settings(timeout=timeout, learning=False))
    return found


def test_a_board_over_ssh_runs_and_is_left_clean(machine: Path, bundle_path: Path) -> None:
    found = ask("ssh://me@board:2222", bundle_path)
    assert found.status == "passed", found.reason
    assert found.worst is not None
    assert 0 < found.worst < 1e-4
    assert list((machine / "work").glob("pocketstep*")) == []


@pytest.mark.parametrize(
    ("fake", "kind", "words"),
    [
        ("unreachable", "unreachable", "Connection refused"),
        ("full", "disk full", "No space left"),
        ("dies", "died", "hung up in the middle"),
        ("killed", "died", "signal 9; out of memory is likely"),
        ("hangs", "timeout", "did not end within 3 s"),
        ("nopython", "missing tool", "has no python3"),
    ],
)
def test_what_goes_wrong_over_ssh_is_named(
    fake: str, kind: str, words: str, machine: Path, bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE", fake)
    found = ask("ssh://board/" + str(machine / "work"), bundle_path, timeout=3.0 if fake == "hangs" else 300.0)
    assert (found.status, found.kind) == ("error", kind)
    assert words in found.reason
    if fake != "unreachable":
        assert list((machine / "work").glob("pocketstep*")) == []


def test_an_android_device_is_installed_asked_and_left_clean(machine: Path, bundle_path: Path) -> None:
    found = ask("adb:SERIAL", bundle_path)
    assert found.status == "passed", found.reason
    log = (machine / "log").read_text()
    assert "install -r -t" in log
    assert "am instrument -w -r -e bundle bundle -e runtime litert -e tolerance 0.0001 -e threads 2" in log
    assert "pocketstep.validator/.ValidateInstrumentation" in log
    assert log.rstrip().endswith("uninstall pocketstep.validator")
    assert not (machine / "device" / "tmp" / "pocketstep").exists()


@pytest.mark.parametrize(
    ("fake", "kind", "words"),
    [
        ("unreachable", "unreachable", "no devices"),
        ("full", "disk full", "INSUFFICIENT_STORAGE"),
        ("dies", "died", "Process crashed"),
    ],
)
def test_what_goes_wrong_over_adb_is_named(
    fake: str, kind: str, words: str, machine: Path, bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE", fake)
    found = ask("adb", bundle_path)
    assert (found.status, found.kind) == ("error", kind), found.reason
    assert words in found.reason


def test_a_missing_tool_is_named_with_its_package(
    machine: Path, bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    for target, package in (("ssh://board", "openssh-client"), ("emulator", "qemu-user-static"), ("adb", "adb")):
        found = ask(target, bundle_path)
        assert (found.status, found.kind) == ("error", "missing tool")
        assert f"apt-get install {package}" in found.reason


def test_an_apk_that_is_not_built_is_named(machine: Path, bundle_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POCKETSTEP_VALIDATOR_APK", str(machine / "none.apk"))
    found = ask("adb", bundle_path)
    assert (found.status, found.kind) == ("error", "missing tool")
    assert "scripts/android validator" in found.reason
