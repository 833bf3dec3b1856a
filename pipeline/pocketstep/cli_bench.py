"""``pocketstep bench`` and ``pocketstep inspect``: what a bundle is and what it costs, from a shell."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
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
def accuracy(
    recipe: Annotated[str, typer.Argument(help="a .toml file, or 'cifar100-b50', which comes with pocketstep")],
    data: Annotated[Path, typer.Option("--data", help="folder with the data set's binary version")],
    out: Annotated[Path, typer.Option("-o", "--out", help="folder for bases, bundles, plots; kept")] = Path("accuracy"),
    part: Annotated[str, typer.Option(help="some of base,stream,shift")] = "stream,shift",
    methods: Annotated[str | None, typer.Option(help="of the stream, instead of the recipe's")] = None,
    seeds: Annotated[int | None, typer.Option(help="class orders, instead of the recipe's")] = None,
    runtime: Annotated[str, typer.Option(help="litert or executorch")] = "litert",
    threads: Annotated[int, typer.Option(help="CPU threads")] = 2,
    as_json: Json = False,
) -> None:
    """How well devices learn: classes that come in steps, and another camera; every method through bundle programs.

    --part base trains the networks that the others begin with and leaves them in the folder: for a machine with a GPU.
    """
    from dataclasses import replace

    from pocketstep.bench.accuracy import recipe as recipes
    from pocketstep.bench.accuracy import results, run, shift
    from pocketstep.console import Console

    found, parts = recipes.load(recipe), _parts(part, ("base", "stream", "shift"), "--part")
    order = found.order(data, runtime, threads)
    order = replace(order, methods=_names(methods) or order.methods, seeds=seeds or order.seeds)
    run.check(order.methods)
    train, test = found.images(data)
    out.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {}
    with Console(quiet=as_json) as console:
        if "base" in parts:
            result["base"] = run.bases(order, train, test, out, console.stage)
        if "stream" in parts:
            result["stream"] = run.measure(order, train, test, out, console.stage)
        if "shift" in parts:
            table = found.shift
            result["shift"] = shift.measure(
                found.settings(data), train, test, out, cameras=table.cameras, cuts=table.cuts, variants=table.variants,
                shown=table.shown, test_per_class=table.test_per_class or None, seconds=table.seconds,
                runtime=runtime, threads=threads, tell=console.stage,
            )  # fmt: skip
    (out / "accuracy.json").write_text(json.dumps(_plain(result), indent=1))
    if "stream" in result:
        results.draw_stream(result["stream"], out / "accuracy.png")
        results.draw_costs(result["stream"], out / "costs.png")
    if as_json:
        _print_json(result)
        return
    for name, table_of in (("stream", results.stream_table), ("shift", results.shift_table)):
        if name in result:
            _print(table_of(result[name]))
    typer.echo(f"bases, bundles, plots and numbers: {out}")


@bench.command(epilog=EPILOG)
def compress(
    recipe: Annotated[str, typer.Argument(help="a .toml file with a [study], such as models/cifar10-small.toml")],
    out: Annotated[Path, typer.Option("-o", "--out", help="folder for rows, results.json and the plot, kept")],
    data: Annotated[str, typer.Option("--data", help="where the images are, if not where the recipe says")] = "",
    only: Annotated[
        str, typer.Option(help="some of curve,criteria,methods,increment,unseen")
    ] = "curve,criteria,methods,increment,unseen",
    as_json: Json = False,
) -> None:
    """Compression and knowledge transfer on a recipe's data: accuracy against size, steps, new and unseen classes.

    A run that was killed goes on where it was; rows that are there are not measured again.
    """
    from pocketstep.bench.compress import PARTS, Study
    from pocketstep.bench.compress_tables import plot, tables
    from pocketstep.bench.tables import machine_line
    from pocketstep.console import Console

    parts = _parts(only, PARTS)
    with Console(quiet=as_json) as console:
        result = Study(recipe, out, data, console).measure(parts)
    plot(result, out / "compress.png")
    if as_json:
        _print_json(result)
        return
    for part in tables(result):
        _print(part)
    typer.echo(f"{machine_line(result['machine'])}; {out / 'compress.png'}")


@bench.command(epilog=EPILOG)
def fleet(
    recipe: Annotated[str, typer.Argument(help="a .toml file with [decouple], [fleet] and [measures]")],
    out: Annotated[Path, typer.Option("-o", "--out", help="folder for rows, results.json and plots, kept")],
    data: Annotated[str, typer.Option("--data", help="where the images are, if not where the recipe says")] = "",
    only: Annotated[
        str, typer.Option(help="some of rounds,single,specialised,growth")
    ] = "rounds,single,specialised,growth",
    processes: Annotated[int, typer.Option(help="that devices are simulated in")] = 1,
    as_json: Json = False,
) -> None:
    """Critical paths and fleets: accuracy by round and bytes, one path against all, a smaller network, new classes.

    A run that was killed goes on where it was; rows that are there are not measured again.
    """
    from pocketstep.bench.fleet.study import PARTS, FleetStudy
    from pocketstep.bench.fleet.tables import draw, tables
    from pocketstep.bench.tables import machine_line
    from pocketstep.console import Console

    parts = _parts(only, PARTS)
    with Console(quiet=as_json) as console:
        result = FleetStudy(recipe, out, data, console, processes=processes).measure(parts)
    plots = draw(result, out)
    if as_json:
        _print_json(result)
        return
    for part in tables(result):
        _print(part)
    typer.echo("; ".join([machine_line(result["machine"]), *map(str, plots)]))


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


def _parts(text: str, known: Sequence[str], option: str = "--only") -> list[str]:
    """Which of a benchmark's parts an option asks for."""
    parts = _names(text) or []
    if not parts or not set(parts) <= set(known):
        raise InputError(f"{option} is '{text}'; choose among {', '.join(known)}, with commas between")
    return parts


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
