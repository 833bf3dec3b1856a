"""A matrix file: which bundles on which targets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketstep.toml_tables import parse_text
from pocketstep_device.errors import InputError

_RUNTIMES = ("litert", "tflite", "executorch")
_FIELDS = {"bundles", "jobs", "tolerance", "timeout", "threads", "target"}


@dataclass(frozen=True)
class Row:
    """One target of a matrix.

    Attributes:
        name: the target.
        runtimes: those to ask; empty for all.
        run: false for what this machine cannot run: its row stays empty.
    """

    name: str
    runtimes: tuple[str, ...]
    run: bool


@dataclass(frozen=True)
class Matrix:
    """What a matrix file says; numbers are None where it says nothing."""

    bundles: tuple[Path, ...]
    rows: tuple[Row, ...]
    jobs: int
    tolerance: float | None
    timeout: float | None
    threads: int | None


def read_matrix(path: Path) -> Matrix:
    """Reads a TOML file; bundles' paths are taken from its folder.

    Raises:
        InputError: unreadable, or a field is unknown, missing or of a wrong type.
    """
    try:
        found = parse_text(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is no matrix of targets: {error}") from error
    if unknown := set(found) - _FIELDS:
        raise InputError(f"{path} has an unknown field '{min(unknown)}'; known are {', '.join(sorted(_FIELDS))}")
    bundles, targets = found.get("bundles", []), found.get("target", [])
    if not isinstance(bundles, list) or not all(isinstance(b, str) for b in bundles):
        raise InputError(f"'bundles' of {path} must be a list of paths of bundles")
    if not isinstance(targets, list) or not targets:
        raise InputError(f"{path} names no [[target]]; add one, as in models/targets.toml")
    numbers = {name: _number(found, name, path) for name in ("jobs", "tolerance", "timeout", "threads")}
    threads = numbers["threads"]
    return Matrix(
        tuple(path.parent / bundle for bundle in bundles),
        tuple(_row(target, path) for target in targets),
        int(numbers["jobs"] or 1),
        numbers["tolerance"],
        numbers["timeout"],
        int(threads) if threads else None,
    )


def _row(found: Any, path: Path) -> Row:
    if (
        not isinstance(found, dict)
        or not isinstance(found.get("name"), str)
        or set(found) - {"name", "runtimes", "run"}
    ):
        raise InputError(f"a [[target]] of {path} needs a name, and may have runtimes and run; nothing else")
    runtimes, run = found.get("runtimes", []), found.get("run", True)
    if not isinstance(runtimes, list) or not set(runtimes) <= set(_RUNTIMES) or not isinstance(run, bool):
        raise InputError(
            f"target '{found['name']}' of {path}: runtimes are {', '.join(_RUNTIMES)}; run is true or false"
        )
    return Row(found["name"], tuple(runtimes), run)


def _number(found: dict[str, Any], name: str, path: Path) -> float | None:
    value = found.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise InputError(f"'{name}' of {path} must be a positive number")
    return float(value)
