"""The userland of another processor, by qemu-user: quick enough for every run of a CI."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pocketstep.validate.cache import cached, key
from pocketstep.validate.debian import BASE, PYTHON, SUITE, unpack
from pocketstep.validate.machines import Architecture, architecture
from pocketstep.validate.target import Job, UnsupportedError, finished, no_report
from pocketstep.validate.tools import need, run
from pocketstep.validate.wheels import NO_WHEELS, compile_for, device_package, site

_REVISION = "1"
_NUMPY = "usr/lib/python3/dist-packages"


class UserlandTarget:
    """Debian's Python for another processor, and wheels for it, under qemu-user.

    Args:
        name: ``aarch64`` or ``armv7``.

    Raises:
        InputError: another one; the message says which runtimes have no wheels for it.
    """

    def __init__(self, name: str) -> None:
        self._machine = architecture(name)
        self.name = f"emulator:{name}"
        self.runtimes: Sequence[str] = ("tflite",) if ("litert", self._machine.name) in NO_WHEELS else ("litert",)

    def prepare(self) -> None:
        """Nothing to do: what cannot run needs no emulator to say so."""

    def validate(self, job: Job) -> bytes:
        """See :class:`Target`."""
        machine = self._machine
        if (reason := NO_WHEELS.get((job.runtime, machine.name))) is not None:
            raise UnsupportedError(reason)
        emulator = need(machine.emulator)
        root = userland_root(machine)
        wheels = site(job.runtime, PYTHON, machine.name, without_numpy=bool(machine.numpy))
        with tempfile.TemporaryDirectory() as folder:
            device_package(Path(folder))
            report = Path(folder) / "report.json"
            paths = [Path(folder), wheels, *([root / _NUMPY] if machine.numpy else [])]
            settings = {"PYTHONPATH": ":".join(map(str, paths)), "LD_LIBRARY_PATH": _libraries(machine, root)}
            options = ["-cpu", machine.cpu, "-L", str(root)]
            options += [word for name, value in settings.items() for word in ("-E", f"{name}={value}")]
            python = [str(root / "usr" / "bin" / f"python{PYTHON}"), "-S", "-m", "pocketstep_device"]
            done = run([emulator, *options, *python, *job.words(str(job.bundle.absolute()), str(report))], job.timeout)
            finished(done, self.name)
            if not report.exists():
                raise no_report(done, self.name)
            return report.read_bytes()

    def close(self) -> None:
        """Nothing stays but the cache."""


def userland_root(machine: Architecture) -> Path:
    """Debian's packages for a processor, unpacked once."""
    packages = (*BASE, *machine.numpy)
    name = f"roots/{machine.name}-{key(SUITE, *packages, machine.cpuinfo, _REVISION)}"
    return cached(name, partial(_make, machine=machine, packages=packages))


def _make(root: Path, machine: Architecture, packages: tuple[str, ...]) -> None:
    unpack(packages, machine.debian, root)
    (root / "proc").mkdir()
    (root / "proc" / "cpuinfo").write_text(machine.cpuinfo)
    compile_for(root / "usr" / "lib", PYTHON)


def _libraries(machine: Architecture, root: Path) -> str:
    """Where Debian keeps BLAS until its alternatives are set up, which unpacking does not do."""
    folder = root / "usr" / "lib" / machine.triplet
    return ":".join(str(folder / name) for name in ("blas", "lapack")) if machine.numpy else ""
