"""``pocketstep``: the cloud side from a shell. Heavy libraries are imported inside the commands."""

from __future__ import annotations

import json
import logging
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from pocketstep.cli_bench import bench, inspect
from pocketstep.cli_export import export
from pocketstep.cli_fleet import decouple, fleet
from pocketstep.cli_sign import keygen, sign, verify
from pocketstep.cli_targets import targets
from pocketstep.cli_validate import validate
from pocketstep_device.errors import InputError, PocketstepError

EPILOG = "Exit codes: 0 done; 1 a check failed; 2 wrong use or bad input; 3 a tool or device is missing."
app = typer.Typer(
    help="Turns a trained CNN into a small bundle that classifies, and learns new classes, on phones and boards.",
    epilog=EPILOG, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
)  # fmt: skip


class DeviceRuntime(str, Enum):
    """Where the demo's device learns."""

    litert = "litert"
    executorch = "executorch"


Json = Annotated[bool, typer.Option("--json", help="print one JSON object instead of tables")]
Recipe = Annotated[str, typer.Argument(help="a .toml file, or 'digits', which comes with pocketstep")]
Out = Annotated[Path, typer.Option("-o", "--out", help="where the result goes")]
Data = Annotated[str, typer.Option("--data", help="where the images are, if not where the recipe says")]


@app.callback()
def options(
    verbose: Annotated[bool, typer.Option("--verbose", help="print the trace of an error")] = False,
) -> None:
    """Options of every command."""
    logging.basicConfig(level=logging.DEBUG if verbose else logging.ERROR)
    logging.getLogger("flwr").propagate = False  # Flower shows its lines itself


@app.command(epilog=EPILOG)
def demo(
    out: Annotated[Path, typer.Option("--out", help="folder for bundle, results and report")] = Path("demo-out"),
    runtime: Annotated[DeviceRuntime | None, typer.Option(help="only this one (default: both)")] = None,
    as_json: Json = False,
) -> None:
    """The whole story on scikit-learn's digits: nine classes in the cloud, the tenth on the device; 2 to 3 minutes."""
    from pocketstep.console import Console, camera_table, results_table
    from pocketstep.demo.run import DEVICE_RUNTIMES
    from pocketstep.demo.run import demo as run

    with Console(quiet=as_json) as console:
        results = run(out, [runtime.value] if runtime else DEVICE_RUNTIMES, console)
    if as_json:
        _print_json(results)
        return
    _print_table(results_table(results))
    _print_table(camera_table(results))
    for name, result in results["runtimes"].items():
        typer.echo(
            f"{name}: golden replay {result['golden']['worst']:.1e} (tolerance {result['golden']['tolerance']:.0e}), "
            f"a step costs {result['timing']['forward_passes']:.2f} forward passes, same answers after a restart"
        )
    size = results["bundle"]["bytes"] / 2**20
    typer.echo(f"{results['seconds']['total']:.0f} s; {out / 'digits.bundle'} ({size:.1f} MiB), {out / 'report.html'}")


@app.command(epilog=EPILOG)
def train(recipe: Recipe, out: Out, data: Data = "") -> None:
    """Trains a recipe's teacher on the cloud's classes; writes teacher.safetensors into the folder."""
    from pocketstep.build import Workshop
    from pocketstep.console import Console

    with Console() as console:
        teacher = Workshop(recipe, out, data).teacher(console)
    typer.echo(f"teacher: {teacher.accuracy:.1%} per class, {teacher.parameters:,} parameters, {teacher.seconds:.0f} s")


@app.command(epilog=EPILOG)
def compress(
    recipe: Recipe,
    out: Out,
    data: Data = "",
    teacher: Annotated[Path | None, typer.Option(help="a teacher.safetensors to use in place of training one")] = None,
) -> None:
    """Makes the teacher shallow and thin and retrains it with knowledge transfer; writes student.safetensors."""
    from pocketstep.build import Workshop
    from pocketstep.console import Console

    with Console() as console:
        student = Workshop(recipe, out, data, teacher).student(console)
    typer.echo(f"student: {student.accuracy:.1%} per class, {student.parameters:,} parameters, {student.macs:,} MACs")
    for note in student.notes:
        typer.echo(note)


@app.command(epilog=EPILOG)
def build(recipe: Recipe, out: Out, data: Data = "") -> None:
    """From a recipe to a bundle; resumes where it stopped (stages are kept beside it, in OUT.stages)."""
    from pocketstep.build import Workshop
    from pocketstep.console import Console

    with Console() as console:
        bundle = Workshop(recipe, out.with_name(out.name + ".stages"), data).bundle(out, console)
    size = sum(entry.bytes for entry in bundle.manifest.files.values())
    typer.echo(f"{out}: {size:,} bytes, {', '.join(bundle.manifest.runtimes)}")


def _print_json(value: dict[str, Any]) -> None:
    typer.echo(json.dumps(value))


def _print_table(table: Any) -> None:
    from rich.console import Console

    console = Console()
    console.width = max(console.width, 100)
    console.print(table)


app.command(epilog=EPILOG)(decouple)
app.command(epilog=EPILOG)(export)
app.command(epilog=EPILOG)(fleet)
app.command(epilog=EPILOG)(inspect)
app.command(epilog=EPILOG)(keygen)
app.command(epilog=EPILOG)(validate)
app.command(epilog=EPILOG)(sign)
app.command(epilog=EPILOG)(targets)
app.command(epilog=EPILOG)(verify)
app.add_typer(bench, name="bench")


def main() -> None:
    """Runs a command; our errors become one sentence on stderr and their exit code."""
    try:
        app()
    except PocketstepError as error:
        _stop(error, error.exit_code)
    except OSError as error:  # disk full, read-only, not permitted: ours to say, not to trace
        _stop(error, InputError.exit_code)


def _stop(error: Exception, exit_code: int) -> NoReturn:
    if logging.getLogger().isEnabledFor(logging.DEBUG):
        logging.exception("the command failed")
    sys.stderr.write(f"pocketstep: {error}\n")
    raise SystemExit(exit_code) from None


if __name__ == "__main__":
    main()
