"""``pocketstep validate``: bundles on targets, from a shell."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pocketstep_device.errors import InputError

if TYPE_CHECKING:
    from pocketstep.validate.matrix import Matrix, Row
    from pocketstep.validate.outcome import Outcome
    from pocketstep.validate.run import Settings
    from pocketstep.validate.target import Target


class Runtime(str, Enum):
    """What runs a program on a target."""

    litert = "litert"
    tflite = "tflite"
    executorch = "executorch"


_TARGETS = "host, emulator[:aarch64|armv7|board], ssh://user@board[:port][/folder], adb[:SERIAL]; may be repeated"
Targets = Annotated[list[str] | None, typer.Option("--target", help=_TARGETS)]
Runtimes = Annotated[list[Runtime] | None, typer.Option("--runtime", help="only this one; may be repeated")]
File = Path | None


def validate(
    bundles: Annotated[list[Path] | None, typer.Argument(metavar="[BUNDLE]...", help="folders or zips")] = None,
    target: Targets = None,
    runtime: Runtimes = None,
    matrix: Annotated[File, typer.Option(help="a TOML file of bundles and targets: models/targets.toml")] = None,
    tolerance: Annotated[float | None, typer.Option(help="largest relative error (default 1e-4)")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads (default 2)")] = None,
    timeout: Annotated[float | None, typer.Option(help="seconds for one bundle on one runtime (default 1800)")] = None,
    jobs: Annotated[int | None, typer.Option(help="targets asked side by side (default 1)")] = None,
    learning: Annotated[bool, typer.Option(help="the golden trace alone, or a learning task too")] = True,
    baseline: Annotated[File, typer.Option(help="an earlier --json; fails when figures grew past --limits")] = None,
    limits: Annotated[str, typer.Option(help="factors of growth")] = "error=2,size=1.05,passes=1.25",
    junit: Annotated[File, typer.Option(help="writes JUnit XML")] = None,
    html: Annotated[File, typer.Option(help="writes a page")] = None,
    markdown: Annotated[File, typer.Option(help="writes the support table")] = None,
    json_wanted: Annotated[bool, typer.Option("--json", help="print one JSON object instead of tables")] = False,
) -> None:
    """Replays the golden trace and a learning task where a bundle shall run, and says what it saw there."""
    from pocketstep.validate.matrix import Row, read_matrix
    from pocketstep.validate.outcome import exit_code
    from pocketstep.validate.results import Limits, as_json, regressions
    from pocketstep.validate.run import validate as run
    from pocketstep.validate.stopping import signals

    factors = Limits.parse(limits)
    plan = read_matrix(matrix) if matrix else None
    paths = [*(bundles or []), *(plan.bundles if plan else [])]
    if not paths:
        raise InputError("no bundle was named; give one, or --matrix with 'bundles'")
    if plan and target:
        raise InputError("--matrix names the targets; leave --target out")
    rows = plan.rows if plan else [Row(name, (), True) for name in target or ["host"]]
    given = (tuple(choice.value for choice in runtime or []), tolerance, threads, timeout, learning)
    settings = _settings(plan, *given)
    if baseline:
        regressions([], baseline, factors)  # one that cannot be read is said before the long part
    with signals():
        outcomes = run(paths, _opened(rows), settings, _say, jobs or (plan.jobs if plan else 1))
    grown = regressions(outcomes, baseline, factors) if baseline else []
    _write(outcomes, grown, settings.tolerance, junit, html)
    if markdown:
        _write_markdown(outcomes, rows, markdown)
    if json_wanted:
        for text in _sentences(outcomes, grown):
            typer.echo(text, err=True)  # a CI's log says why, wherever the JSON goes
        typer.echo(json.dumps(as_json(outcomes, settings.tolerance, grown), allow_nan=False))
    else:
        _print(outcomes, grown, settings.tolerance)
    code = 1 if grown else exit_code(outcomes)
    if code:
        raise typer.Exit(code)


def _settings(
    plan: Matrix | None, runtimes: tuple[str, ...], tolerance: float | None, threads: int | None,
    timeout: float | None, learning: bool,
) -> Settings:  # fmt: skip
    """The command line's numbers, else the matrix's, else the defaults."""
    from pocketstep.validate.run import Settings

    usual = Settings()
    settings = Settings(
        runtimes,
        tolerance or (plan and plan.tolerance) or usual.tolerance,
        threads or (plan and plan.threads) or usual.threads,
        timeout or (plan and plan.timeout) or usual.timeout,
        learning,
    )
    if not (settings.tolerance > 0 and settings.threads > 0 and settings.timeout > 0):
        raise InputError("tolerance, threads and timeout must be positive")
    return settings


def _opened(rows: Sequence[Row]) -> list[Target]:
    """The targets to run on; every name is read before the first is asked."""
    from pocketstep.validate.targets import open_target

    targets = []
    for row in rows:
        target = open_target(row.name)
        if row.runtimes:
            target.runtimes = row.runtimes
        if row.run:
            targets.append(target)
    return targets


def _say(outcome: Outcome) -> None:
    """A line for people who wait."""
    from pocketstep.validate.tables import MARKS, error_text

    error = f", {error_text(outcome.worst)}" if outcome.worst is not None else ""
    what = f"{outcome.bundle} on {outcome.target} {outcome.runtime}"
    typer.echo(f"{what}: {MARKS[outcome.status]}{error} ({outcome.seconds:.0f} s)", err=True)


def _write(outcomes: list[Outcome], grown: list[str], tolerance: float, junit: File, html: File) -> None:
    if junit:
        from pocketstep.validate.junit import write_junit

        write_junit(outcomes, grown, tolerance, junit)
    if html:
        from pocketstep.validate.page import write_page

        write_page(outcomes, grown, tolerance, html)


def _write_markdown(outcomes: list[Outcome], rows: Sequence[Row], path: Path) -> None:
    from pocketstep.validate.tables import markdown

    not_run = [(row.name, runtime) for row in rows if not row.run for runtime in row.runtimes or ("",)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(markdown(outcomes, not_run))


def _sentences(outcomes: list[Outcome], grown: list[str]) -> list[str]:
    """What is not a plain pass, for people."""
    from pocketstep.validate.tables import remarks

    return [*remarks(outcomes), *(f"worse than the baseline: {text}" for text in grown)]


def _print(outcomes: list[Outcome], grown: list[str], tolerance: float) -> None:
    from rich.console import Console

    from pocketstep.validate.tables import outcome_table, signature_table

    console: Any = Console()
    console.width = max(console.width, 120)
    if len({outcome.bundle for outcome in outcomes}) == 1:
        console.print(signature_table(outcomes, tolerance))
    console.print(outcome_table(outcomes, "validated"))
    for text in _sentences(outcomes, grown):
        console.print(text, markup=False, highlight=False, soft_wrap=True)
