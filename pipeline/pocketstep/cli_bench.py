"""``pocketstep bench`` and ``pocketstep inspect``: what a bundle is and what it costs, from a shell."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer

from pocketstep_device.errors import InputError

EPILOG = "Exit codes: 0 done; 1 a check failed; 2 wrong use or bad input; 3 a tool or device is missing."
bench = typer.Typer(
    help="Measures bundles on this machine, side by side in one run.",
    epilog=EPILOG, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
)  # fmt: skip

Bundles = Annotated[list[Path], typer.Argument(help="bundles, folders or zips")]
Runtimes = Annotated[str | None, typer.Option("--runtime", help="litert,executorch (default: all of each bundle)")]
Json = Annotated[bool, typer.Option("--json", help="print one JSON object instead of tables")]


@bench.command(epilog=EPILOG)
def step(
    bundles: Bundles,
    runtime: Runtimes = None,
    threads: Annotated[str, typer.Option(help="CPU threads, one measurement each")] = "1,2",
    repeat: Annotated[int, typer.Option(help="calls of every signature in a round")] = 10,
    rounds: Annotated[int, typer.Option(help="rounds over everything that is compared")] = 5,
    profile: Annotated[bool, typer.Option("--profile", help="also take LiteRT's step apart")] = False,
    as_json: Json = False,
) -> None:
    """Seconds of encode, classify, step and score; a step in forward passes, beside what exact arithmetic says."""
    from pocketstep.bench.step import Options, measure
    from pocketstep.bench.tables import machine_line, profile_tables, step_table
    from pocketstep.console import Console

    options = Options(_names(runtime), _numbers(threads), repeat, rounds, profile)
    with Console(quiet=as_json) as console:
        result = measure(bundles, options, console.stage)
    if as_json:
        _print_json(result)
        return
    _print(step_table(result))
    for found in result.get("profiles", []):
        for part in profile_tables(found):
            _print(part)
    if profile and {row["runtime"] for row in result["rows"]} != {"litert"}:
        typer.echo("the profile is of LiteRT's program; other runtimes do not tell")
    typer.echo(machine_line(result["machine"]))


@bench.command(epilog=EPILOG)
def memory(
    bundles: Bundles,
    runtime: Runtimes = None,
    threads: Annotated[int, typer.Option(help="CPU threads")] = 2,
    as_json: Json = False,
) -> None:
    """Peak resident memory of every signature above an idle process, a fresh process each; Linux only."""
    from pocketstep.bench.memory import measure
    from pocketstep.bench.tables import machine_line, memory_table
    from pocketstep.console import Console

    with Console(quiet=as_json) as console:
        result = measure(bundles, _names(runtime), threads, console.stage)
    if as_json:
        _print_json(result)
        return
    _print(memory_table(result))
    typer.echo(machine_line(result["machine"]))


@bench.command(epilog=EPILOG)
def variants(
    recipe: Annotated[str, typer.Argument(help="a .toml file, or 'digits', which comes with pocketstep")] = "digits",
    out: Annotated[Path, typer.Option("-o", "--out", help="folder for bundles and states, kept")] = Path("variants"),
    as_json: Json = False,
) -> None:
    """What cheaper gradients and an int8 prefix cost in accuracy and save in size: the same update, several bundles."""
    from pocketstep.bench.tables import variants_table
    from pocketstep.bench.variants import measure
    from pocketstep.console import Console

    with Console(quiet=as_json) as console:
        result = measure(recipe, out, console)
    if as_json:
        _print_json(result)
        return
    _print(variants_table(result))


@bench.command(epilog=EPILOG)
def poison(
    bundle: Annotated[Path, typer.Argument(help="of the digits 0 to 8, as 'pocketstep demo' makes it")],
    runtime: Annotated[str, typer.Option(help="litert or executorch")] = "litert",
    method: Annotated[str, typer.Option(help="a schedule of the bundle")] = "auto",
    as_json: Json = False,
) -> None:
    """What bad observations do: label noise, lies, duplicates, NaN, a flood; accuracies on test images."""
    from pocketstep.bench.poison import measure
    from pocketstep.bench.tables import poison_table
    from pocketstep.console import Console

    with Console(quiet=as_json) as console:
        result = measure(bundle, runtime, method, console.stage)
    if as_json:
        _print_json(result)
        return
    _print(poison_table(result))


def inspect(
    bundle: Annotated[Path, typer.Argument(help="a bundle, folder or zip")],
    html: Annotated[Path | None, typer.Option("--html", help="also write a page with a picture of the network")] = None,
    as_json: Json = False,
) -> None:
    """What is in a bundle: roles, cut, signatures, cost, files, runtimes, and what the device stores."""
    from pocketstep.inspection.facts import facts_of
    from pocketstep.inspection.page import write_page
    from pocketstep.inspection.tables import tables
    from pocketstep_device.bundle import Bundle

    facts = facts_of(Bundle.open(bundle))
    if html:
        write_page(facts, html)
    if as_json:
        _print_json(facts)
        return
    for part in tables(facts):
        _print(part)
    if html:
        typer.echo(f"{html} shows the same with a picture")


def _names(text: str | None) -> list[str] | None:
    return [name.strip() for name in text.split(",") if name.strip()] if text else None


def _numbers(text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise InputError(f"--threads is '{text}'; give numbers with commas between, as in 1,2") from None


def _print_json(value: dict[str, Any]) -> None:
    typer.echo(json.dumps(_plain(value), allow_nan=False))


def _plain(value: Any) -> Any:
    """NaN and infinity are no JSON: null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _print(part: Any) -> None:
    from rich.console import Console
    from rich.measure import Measurement

    if isinstance(part, str):
        typer.echo(part)
        return
    console = Console()
    natural = Measurement.get(console, console.options.update(max_width=1000), part).maximum
    console.width = max(console.width, 100) if console.is_terminal else natural
    console.print(part)
