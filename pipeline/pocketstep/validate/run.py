"""Asks targets about bundles; a target that cannot be asked is an outcome, and the others go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketstep.validate.errors import TargetError
from pocketstep.validate.host import HostTarget
from pocketstep.validate.outcome import Outcome, compared, judged, replaced
from pocketstep.validate.stopping import closing, pool
from pocketstep.validate.target import Job, Target, UnsupportedError
from pocketstep.validate.target_report import read_report
from pocketstep_device.bundle import Bundle
from pocketstep_device.errors import InputError
from pocketstep_device.golden import GOLDEN_FILE
from pocketstep_device.tensors import parse_json

_PROGRAMS = {"litert": "litert", "tflite": "litert", "executorch": "executorch"}
"""Runtime of a target -> runtime of a bundle whose program it runs."""
OnOutcome = Callable[[Outcome], None]


@dataclass(frozen=True)
class Settings:
    """What all jobs of a run have in common.

    Attributes:
        runtimes: those to ask; empty for all that a target and a bundle have.
        tolerance: largest relative error that passes.
        threads: CPU threads.
        timeout: seconds for one job.
        learning: whether the learning task runs.
    """

    runtimes: tuple[str, ...] = ()
    tolerance: float = 1e-4
    threads: int = 2
    timeout: float = 1800.0
    learning: bool = True


def validate(
    bundles: Sequence[Path],
    targets: Sequence[Target],
    settings: Settings,
    on_outcome: OnOutcome = lambda _: None,
    jobs: int = 1,
) -> list[Outcome]:
    """Every bundle on every target, a target's bundles one after the other.

    Args:
        bundles: paths.
        targets: not yet used; closed at the end.
        settings: of all jobs.
        on_outcome: called after each, from several threads where ``jobs`` are several.
        jobs: how many targets are asked side by side.

    Returns:
        Outcomes in the order of targets, bundles, runtimes.

    Raises:
        BundleError: no bundle can be opened; one that cannot, among others, is an outcome.
    """
    opened = {path: _opened(path) for path in bundles}
    if bundles and all(isinstance(found, InputError) for found in opened.values()):
        Bundle.open(bundles[0])
    references: dict[Path, Mapping[str, Any] | None] = {}
    if settings.learning and any(target.name != "host" for target in targets):
        references = {path: _reference(path, found, settings) for path, found in opened.items()}

    def ask(target: Target) -> list[Outcome]:
        contact = _Contact(target)
        try:
            found: list[Outcome] = []
            for path, bundle in opened.items():
                found += _one(path, bundle, contact, settings, references.get(path), on_outcome)
            return found
        finally:
            with closing():
                target.close()

    with pool(max(1, jobs)) as threads:
        return [outcome for found in threads.map(ask, targets) for outcome in found]


class _Contact:
    """A target that is made ready at the first job, and not asked again once it cannot be reached."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._ready = False
        self._gone: TargetError | None = None

    def validate(self, job: Job) -> bytes:
        """As :meth:`Target.validate`; the error of a target that is gone again, at once."""
        if self._gone is not None:
            raise self._gone
        try:
            if not self._ready:
                self.target.prepare()
                self._ready = True
            return self.target.validate(job)
        except TargetError as error:
            if not self._ready or error.kind == "unreachable":
                self._gone = error
            raise


def _opened(path: Path) -> Bundle | InputError:
    try:
        return Bundle.open(path)
    except InputError as error:
        return error


def _reference(path: Path, bundle: Bundle | InputError, settings: Settings) -> Mapping[str, Any] | None:
    """What the host learns, to hold targets against."""
    if isinstance(bundle, InputError):
        return None
    host = _Contact(HostTarget())
    runtime = next((name for name in host.target.runtimes if name in bundle.manifest.runtimes), None)
    if runtime is None:
        return None
    outcome = _ask(Outcome(path.name, "host", runtime, "error"), host, _job(path, runtime, settings), bundle)
    return _learned(outcome)


def _learned(outcome: Outcome) -> Mapping[str, Any] | None:
    learning = (outcome.report or {}).get("learning")
    return learning if outcome.status == "passed" and isinstance(learning, dict) else None


def _one(
    path: Path, bundle: Bundle | InputError, contact: _Contact, settings: Settings, reference: Mapping[str, Any] | None,
    on_outcome: OnOutcome,
) -> list[Outcome]:  # fmt: skip
    """One bundle on one target, its runtimes one after the other."""
    target = contact.target
    if isinstance(bundle, InputError):
        bad = Outcome(path.name, target.name, "", "error", "bad input", str(bundle))
        on_outcome(bad)
        return [bad]
    found: list[Outcome] = []
    for runtime in settings.runtimes or _common(bundle, target):
        outcome = Outcome(path.name, target.name, runtime, "error", size=_size(bundle, runtime))
        if _PROGRAMS[runtime] not in bundle.manifest.runtimes:
            outcome = replaced(outcome, "unsupported", "no program", f"the bundle has no program for {runtime}")
        else:
            outcome = compared(_ask(outcome, contact, _job(path, runtime, settings), bundle), reference)
        if target.name == "host":
            reference = reference or _learned(outcome)
        on_outcome(outcome)
        found.append(outcome)
    return found


def _common(bundle: Bundle, target: Target) -> list[str]:
    return [runtime for runtime in target.runtimes if _PROGRAMS[runtime] in bundle.manifest.runtimes]


def _job(path: Path, runtime: str, settings: Settings) -> Job:
    return Job(path, runtime, settings.threads, settings.tolerance, settings.timeout, settings.learning)


def _ask(outcome: Outcome, contact: _Contact, job: Job, bundle: Bundle) -> Outcome:
    began = time.monotonic()
    try:
        report = read_report(contact.validate(job))
        outcome = judged(replaced(outcome, "error", "", "", report=report), job.tolerance, _calls(bundle))
    except UnsupportedError as error:
        outcome = replaced(outcome, "unsupported", error.kind, str(error))
    except TargetError as error:
        outcome = replaced(outcome, "error", error.kind, str(error))
    except OSError as error:  # our own disk or memory: named like the target's
        kind = "disk full" if "No space left" in str(error) else "setup"
        outcome = replaced(outcome, "error", kind, f"on this machine: {error}")
    return replaced(outcome, outcome.status, outcome.kind, outcome.reason, seconds=time.monotonic() - began)


def _calls(bundle: Bundle) -> int:
    """How many calls the bundle's golden trace has."""
    _, metadata = bundle.tensors(GOLDEN_FILE)
    calls = parse_json(metadata.get("calls", "").encode(), "the golden trace's list of calls", InputError)
    return len(calls) if isinstance(calls, list) else 0


def _size(bundle: Bundle, runtime: str) -> int:
    """Bytes of a runtime's program, one file or a folder."""
    program = bundle.manifest.runtimes.get(_PROGRAMS[runtime])
    if program is None:
        return 0
    files = bundle.manifest.files
    return sum(e.bytes for name, e in files.items() if name == program.file or name.startswith(f"{program.file}/"))
