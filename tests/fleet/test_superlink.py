"""A SuperLink and three SuperNodes as processes of their own, over TLS on the loopback; one is killed in the round."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from pocketstep.validate.board import free_port
from pocketstep_device.errors import StateError
from pocketstep_device.storage import FolderLock

APP = Path(__file__).parents[2] / "scripts" / "fleet_app"
BIN = Path(sys.executable).parent
PATIENCE = 240.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (BIN / "flower-superlink").exists(), reason="needs pip install 'pocketstep[fleet]'"),
]


def until(is_so: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline, f"waited {PATIENCE:.0f} s for {what}"
        time.sleep(0.05)


@contextmanager
def running(words: list[str], log: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process, and all that it starts, until the end of the block."""
    with log.open("wb") as file:
        process = subprocess.Popen(words, stdout=file, stderr=file, env=environment, start_new_session=True)
        try:
            yield process
        finally:
            kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def observed(bundle: Path, state: Path, digits: Any, number: int) -> Path:
    """A device that has seen three classes, the new one among them."""
    from pocketstep_device import Learner

    train = digits[0]
    with Learner.open(bundle, state) as learner:
        for label in (number, number + 3, 9):
            name = train.classes[label]
            if name not in learner.classes:
                learner.add_class(name)
            learner.observe(train.images[train.labels == label][:30], name)
    return state


def test_a_round_is_finished_without_the_device_that_was_killed(bundle_path: Path, digits: Any, tmp_path: Path) -> None:
    certificates = tmp_path / "certificates"
    subprocess.run([APP / "certificates.sh", certificates], check=True, capture_output=True)
    states = [observed(bundle_path, tmp_path / f"device{n}", digits, n) for n in range(3)]
    here = {**os.environ, "FLWR_HOME": str(tmp_path / "flower"), "PATH": f"{BIN}:{os.environ['PATH']}"}
    here |= {"FLWR_TELEMETRY_ENABLED": "0", "HOME": str(tmp_path)}
    port, root, out = free_port(), certificates / "ca.pem", tmp_path / "out"
    keys = ["--ssl-ca-certfile", str(root), "--ssl-certfile", str(certificates / "server.pem")]
    keys += ["--ssl-keyfile", str(certificates / "server.key")]
    with ExitStack() as stack:

        def start(name: str, *words: str) -> subprocess.Popen[bytes]:
            return stack.enter_context(
                running([str(BIN / name), *words], tmp_path / f"{name}-{words[-1][-8:]}.log", here)
            )

        start("flower-superlink", *keys, "--disable-runtime-dependency-installation", "--port", str(port))
        until(lambda: is_open(port), "the SuperLink")
        nodes = []
        for state in states:
            config = f'bundle="{bundle_path}" state="{state}"'
            words = ["--root-certificates", str(root), "--superlink", f"127.0.0.1:{port}", "--node-config", config]
            nodes.append(start("flower-supernode", *words, *keys, "--port", str(free_port())))
        flower = tmp_path / "flower"
        flower.mkdir(exist_ok=True)
        (flower / "config.toml").write_text(
            f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "127.0.0.1:{port}"\n'
            f'root-certificates = "{root}"\n'
        )
        settings = f'bundle="{bundle_path}" out="{out}" least=3 seconds=120.0'
        done = subprocess.run(
            [BIN / "flwr", "run", APP, "here", "-c", settings], env=here, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        victim = states[2]
        saved = len(list(victim.glob("snapshot-*")))
        until(lambda: in_use(victim), "the third device's update")
        kill(nodes[2])
        assert len(list(victim.glob("snapshot-*"))) == saved
        until(lambda: (out / "fleet.json").exists(), "the end of the round")
    found = json.loads((out / "fleet.json").read_text())
    assert {k: found["rounds"][0][k] for k in ("asked", "used", "failed", "rejected")} == {
        "asked": 3, "used": 2, "failed": 1, "rejected": 0,
    }  # fmt: skip
    assert found["classes"] == [str(n) for n in range(10)]
    check_adoption(out / "next.bundle", states)


def check_adoption(bundle: Path, states: list[Path]) -> None:
    """The devices adopt what came of it, the killed one too: it holds what it held before."""
    from pocketstep_device.adoption import adopt

    for state in states:
        adoption = adopt(bundle, state)
        assert adoption.accepted, adoption.reason


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def in_use(state: Path) -> bool:
    try:
        with FolderLock(state):
            return False
    except StateError:
        return True
