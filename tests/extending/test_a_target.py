"""Adding a target to ``pocketstep validate``: three methods; reports, verdicts and files are the same for all.

A target runs ``pocketstep-device`` somewhere and brings its report: this one does so in a folder of its own, as a
container, a device farm or a serial line would. ``open_target`` is where a name of the command line becomes one.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from pocketstep.validate.errors import TargetError
from pocketstep.validate.run import Settings, validate
from pocketstep.validate.target import Job


class FolderTarget:
    """A folder that plays another machine."""

    name = "folder"
    runtimes = ("litert",)

    def prepare(self) -> None:
        self._folder = Path(tempfile.mkdtemp())

    def validate(self, job: Job) -> bytes:
        there = shutil.copytree(job.bundle, self._folder / "bundle", dirs_exist_ok=True)
        report = self._folder / "report.json"
        words = job.words(str(there), str(report))
        done = subprocess.run(
            [sys.executable, "-m", "pocketstep_device", *words], capture_output=True, text=True, timeout=job.timeout
        )
        if not report.exists():
            raise TargetError(f"{self.name} gave no report: {done.stderr[-300:]}")
        return report.read_bytes()

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def test_a_bundle_passes_on_it(bundle_path: Path) -> None:
    (outcome,) = validate([bundle_path], [FolderTarget()], Settings(learning=False))
    assert outcome.status == "passed", outcome
    assert outcome.target == "folder"
