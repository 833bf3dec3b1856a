"""Transports of ``pocketstep validate`` against scripted ``ssh`` and ``adb``: the protocol we speak, and its failures.

The scripts play a machine on this one: the runner that they start is the real one, the network and the device are not.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from broken import broken_copy
from test_cloud_cli import pocketstep

from pocketstep.validate import stopping
from pocketstep.validate.outcome import Outcome
from pocketstep.validate.run import Settings, validate
from pocketstep.validate.target import Target
from pocketstep.validate.targets import open_target

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
    wait-for-device) [ "$FAKE" = absent ] && exec sleep 60; exit 0 ;;
    get-state) echo "error: device unauthorized." >&2; exit 1 ;;
    uninstall) exit 0 ;;
    install) [ "$FAKE" = full ] && { echo "Failure [INSTALL_FAILED_INSUFFICIENT_STORAGE]"; exit 1; }; exit 0 ;;
    push) target="$(echo "$2" | sed "s#/data/local/tmp#$FAKE_ROOT/tmp#")"; cp -r "$1" "$target"; exit 0 ;;
    shell|exec-out)
        case "$1" in
            "run-as pocketstep.validator sh -c "*) inside "$(echo "$1" | sed 's/^run-as pocketstep.validator //')" ;;
            "am instrument"*)
                [ "$FAKE" = unplugged ] && { echo "adb: device 'SERIAL' not found" >&2; exit 1; }
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


def until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.1)


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


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


def test_an_unreachable_host_is_asked_once_for_all_of_its_cells(
    machine: Path, bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE", "unreachable")
    matrix, junit = tmp_path / "targets.toml", tmp_path / "junit.xml"
    runtimes = 'runtimes = ["litert", "executorch"]'
    matrix.write_text(f'[[target]]\nname = "ssh://board"\n{runtimes}\n[[target]]\nname = "host"\n{runtimes}\n')
    done = pocketstep("validate", bundle_path, "--matrix", matrix, "--no-learning", "--json", "--junit", junit)
    assert done.returncode == 3, done.stderr
    rows = json.loads(done.stdout)["outcomes"]
    assert [(row["target"], row["status"], row["kind"]) for row in rows] == [
        *[("ssh://board", "error", "unreachable")] * 2,
        *[("host", "passed", "")] * 2,
    ]
    assert all("Connection refused" in row["reason"] for row in rows[:2])
    assert len((machine / "log").read_text().splitlines()) == 1


def test_a_board_without_python_is_asked_once(
    machine: Path, bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE", "nopython")
    settings = Settings(runtimes=("litert", "executorch"), learning=False)
    found = validate([bundle_path], [open_target("ssh://board")], settings)
    assert [(o.status, o.kind) for o in found] == [("error", "missing tool")] * 2
    assert len([line for line in (machine / "log").read_text().splitlines() if "mktemp" in line]) == 1


def test_a_newer_python_beside_an_old_one_is_found(machine: Path, bundle_path: Path) -> None:
    (machine / "board" / "python3").rename(machine / "board" / "python3.13")
    (machine / "board" / "python3").write_text("#!/bin/sh\nexit 1\n")  # what 3.8 answers when asked whether it is 3.10
    (machine / "board" / "python3").chmod(0o755)
    found = ask("ssh://board", bundle_path)
    assert found.status == "passed", found.reason
    assert "board/python3.13 -S -m pocketstep_device" in (machine / "log").read_text()


@pytest.mark.parametrize(
    ("runtime", "python", "libc", "words"),
    [
        ("litert", "3.11", "2.31", "litert needs glibc 2.34 and ssh://board has 2.31"),
        ("tflite", "3.13", "2.41", "tflite has wheels up to Python 3.11 and ssh://board has 3.13"),
    ],
)
def test_a_runtime_that_a_board_cannot_have_says_so(
    runtime: str, python: str, libc: str, words: str, machine: Path, bundle_path: Path
) -> None:
    facts = json.dumps({"python": python, "machine": "aarch64", "libc": libc, "free_mb": 4000})
    (machine / "board" / "python3").write_text(f"#!/bin/sh\necho '{facts}'\n")
    settings = Settings(runtimes=(runtime,), learning=False)
    (found,) = validate([bundle_path], [open_target("ssh://board")], settings)
    assert found.status == "unsupported"
    assert words in found.reason


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_job_and_leaves_the_board_clean(
    number: signal.Signals, machine: Path, bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE", "hangs")
    words = ["validate", str(bundle_path), "--target", "ssh://board", "--target", "host", "--no-learning"]
    before = signal.signal(number, signal.SIG_DFL)  # where the tests run under nohup, the program would ignore it too
    process = subprocess.Popen([sys.executable, "-m", "pocketstep", *words], stderr=subprocess.PIPE, text=True)
    signal.signal(number, before)
    until(lambda: "pocketstep_device" in _read(machine / "log"))
    assert list((machine / "work").glob("pocketstep*"))
    process.send_signal(number)
    _, said = process.communicate(timeout=20)  # the hanging job would take 60
    assert process.returncode == 128 + number
    assert f"stopped by {number.name}" in said
    assert "host litert" not in said
    assert not list((machine / "work").glob("pocketstep*"))


def test_a_signal_that_was_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with stopping.signals():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_one_changed_kernel_is_caught_over_ssh_and_adb(machine: Path, bundle_path: Path, tmp_path: Path) -> None:
    copy = broken_copy(bundle_path, tmp_path / "copies", ("program.tflite",))
    for target in ("ssh://board", "adb:SERIAL"):
        found = ask(target, copy)
        assert (found.status, found.kind) == ("failed", "golden trace"), found.reason
        assert found.worst is not None
        assert found.worst > 1e-3


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
        ("unplugged", "died", "went away in the middle"),
    ],
)
def test_what_goes_wrong_over_adb_is_named(
    fake: str, kind: str, words: str, machine: Path, bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE", fake)
    found = ask("adb", bundle_path)
    assert (found.status, found.kind) == ("error", kind), found.reason
    assert words in found.reason


def test_a_phone_that_never_comes_is_unreachable(
    machine: Path, bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE", "absent")
    monkeypatch.setattr("pocketstep.validate.adb._SHORT", 1.0)
    found = ask("adb", bundle_path)
    assert (found.status, found.kind) == ("error", "unreachable"), found.reason
    assert "unauthorized" in found.reason


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
