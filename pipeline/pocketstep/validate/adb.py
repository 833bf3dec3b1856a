"""An Android device or emulator over adb: the validator APK's instrumentation runs the trace and writes the report."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from pocketstep.validate.errors import TargetError
from pocketstep.validate.target import Job, UnsupportedError
from pocketstep.validate.tools import Completed, last_lines, need, run

PACKAGE = "pocketstep.validator"
RUNNER = f"{PACKAGE}/.ValidateInstrumentation"
APK = "POCKETSTEP_VALIDATOR_APK"
"""Environment variable: the APK, where it is not where ``scripts/android validator`` puts it."""
_BUILD = Path(__file__).resolve().parents[3] / "android_app" / "build"
_STAGE = "/data/local/tmp/pocketstep"
_RUNTIMES = ("litert", "executorch")
_SHORT, _COPY = 60.0, 600.0


class AdbTarget:
    """A device by its serial, or the only one there is.

    Args:
        serial: as ``adb devices`` lists it; empty for the only one.
    """

    def __init__(self, serial: str) -> None:
        self.runtimes: Sequence[str] = _RUNTIMES
        self.name = f"adb:{serial}" if serial else "adb"
        self._serial = serial
        self._installed = False
        self._bundle = ""

    def prepare(self) -> None:
        """Waits for the device and installs the validator."""
        apk = Path(os.environ.get(APK, "")) if os.environ.get(APK) else None
        apk = apk or next(iter(sorted(_BUILD.glob("**/validator.apk"))), None)
        if apk is None or not apk.exists():
            raise TargetError("missing tool", f"there is no validator.apk; scripts/android validator, or set {APK}")
        self._wait()
        self._checked(["install", "-r", "-t", str(apk)], _COPY, "Installing the validator")
        self._installed = True

    def validate(self, job: Job) -> bytes:
        """See :class:`Target`."""
        if job.runtime not in _RUNTIMES:
            raise UnsupportedError(f"Android's validator has no {job.runtime}; it has {', '.join(_RUNTIMES)}")
        if self._bundle != str(job.bundle):
            self._push(job.bundle)
        self._app("rm -f files/report.json", _SHORT)
        arguments = {
            "bundle": "bundle", "runtime": job.runtime, "tolerance": repr(job.tolerance), "threads": str(job.threads),
            "learning": "true" if job.learning else "false",
        }  # fmt: skip
        words = [word for name, value in arguments.items() for word in ("-e", name, value)]
        done = self._instrument(shlex.join(["am", "instrument", "-w", "-r", *words, RUNNER]), job.timeout)
        found = self._app("cat files/report.json", _SHORT)
        if found.returncode or not found.stdout.startswith(b"{"):
            raise TargetError(
                "died", f"no report from {self.name} (see adb logcat there): {last_lines(done.stdout + done.stderr)}"
            )
        return found.stdout

    def close(self) -> None:
        """Takes the APK and the bundle away."""
        if self._installed:
            for words in (["shell", f"rm -rf {_STAGE}"], ["uninstall", PACKAGE]):
                with contextlib.suppress(TargetError):
                    self._adb(words, _SHORT)
            self._installed = False

    def _wait(self) -> None:
        """Until the device is there: an emulator takes its time, what is not plugged in never comes."""
        try:
            self._adb(["wait-for-device"], _SHORT)
        except TargetError as error:
            if error.kind != "timeout":
                raise
            said = self._adb(["get-state"], _SHORT)  # says why, in most cases as an error of its own
            state = last_lines(said.stderr + said.stdout)
            raise TargetError(
                "unreachable", f"{self.name} did not come within {_SHORT:.0f} s; look at adb devices: {state}"
            ) from error

    def _instrument(self, command: str, timeout: float) -> Completed:
        try:
            return self._adb(["shell", command], timeout)
        except TargetError as error:
            if error.kind != "unreachable":
                raise
            raise TargetError("died", f"{self.name} went away in the middle; run again: {error}") from error

    def _push(self, bundle: Path) -> None:
        """Through the one folder that both sides may use, into the app's own."""
        self._checked(["shell", f"rm -rf {_STAGE} && mkdir -p {_STAGE}"], _SHORT, "Making room")
        self._checked(["push", str(bundle), f"{_STAGE}/bundle"], _COPY, "Copying the bundle")
        self._checked(["shell", f"chmod -R a+rX {_STAGE}"], _SHORT, "Copying the bundle")
        copy = f"mkdir -p files && rm -rf files/bundle && cp -r {_STAGE}/bundle files/bundle"
        done = self._app(copy, _COPY)
        if done.returncode:
            raise self._problem(done, "Copying the bundle into the app")
        self._bundle = str(bundle)

    def _app(self, command: str, timeout: float) -> Completed:
        """A shell command as the app, in its data folder."""
        return self._adb(["exec-out" if command.startswith("cat") else "shell",
                          f"run-as {PACKAGE} sh -c {shlex.quote(command)}"], timeout)  # fmt: skip

    def _checked(self, words: list[str], timeout: float, what: str) -> None:
        done = self._adb(words, timeout)
        if done.returncode or b"INSTALL_FAILED" in done.stdout:
            raise self._problem(done, what)

    def _problem(self, done: Completed, what: str) -> TargetError:
        said = last_lines(done.stderr + done.stdout)
        full = "No space left" in said or "INSTALL_FAILED_INSUFFICIENT_STORAGE" in said
        return TargetError("disk full" if full else "setup", f"{what} on {self.name} failed: {said}")

    def _adb(self, words: list[str], timeout: float) -> Completed:
        chosen = ["-s", self._serial] if self._serial else []
        done = run([need("adb"), *chosen, *words], timeout)
        said = (done.stderr + done.stdout).decode("utf-8", "replace")
        for sign in (
            "no devices/emulators found",
            "device offline",
            "unauthorized",
            "not found",
            "more than one device",
        ):
            if done.returncode and sign in said and ("device" in said or "emulator" in said):
                raise TargetError("unreachable", f"{self.name}: {last_lines(done.stderr or done.stdout)}")
        return done
