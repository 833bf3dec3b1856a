"""The other end of a worker: starts it, asks, and turns its troubles into errors."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from typing import Any

from pocketstep_device.errors import CheckFailedError, InputError, MissingToolError, PocketstepError

_ERRORS: dict[int, type[PocketstepError]] = {
    kind.exit_code: kind for kind in (CheckFailedError, InputError, MissingToolError)
}


class WorkerProcess:
    """One ``python -m pocketstep.bench.worker``; leaving the context ends it.

    Args:
        what: what it measures, for messages: ``"digits.bundle on litert"``.
    """

    def __init__(self, what: str):
        self._what = what
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  closed in __exit__
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pocketstep.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Gives an order and waits for the answer.

        Raises:
            PocketstepError: what the worker could not do, with its exit code.
            CheckFailedError: the worker died; its last lines are in the message.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it died before; the empty answer says so
            self._process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            raise CheckFailedError(f"measuring {self._what} ended early: {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "exit_code" in answer:
            raise _ERRORS[answer["exit_code"]](answer["error"])
        return answer

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = [line for line in self._log.read().decode(errors="replace").splitlines() if line.strip()]
        return " ".join(lines[-3:]) or f"exit status {self._process.returncode}, and it said nothing"
