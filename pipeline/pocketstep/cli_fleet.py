"""``pocketstep decouple`` and ``pocketstep fleet``: critical paths, and devices that teach one another."""

from __future__ import annotations

import json
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from pocketstep_device.errors import InputError


class Engine(str, Enum):
    """What simulates a fleet."""

    flower = "flower"
    pool = "pool"


def decouple(
    recipe: Annotated[str, typer.Argument(help="a .toml file with a [decouple] section, or the name of one of ours")],
    out: Annotated[Path, typer.Option("-o", "--out", help="folder: decoupled.safetensors, paths.json")],
    classes: Annotated[
        str,
        typer.Option(
            "--classes",
            help="classes between commas: a specialised network of their paths; one class is told from all others",
        ),
    ] = "",
    bundle: Annotated[
        Path | None,
        typer.Option(
            help="with --classes: the bundle of a device that carries their paths and the spare ones, no others"
        ),
    ] = None,
    runtime: Annotated[str, typer.Option(help="which programs it gets, between commas")] = "litert,executorch,coreml",
    data: Annotated[str, typer.Option("--data", help="where the images are, if not where the recipe says")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object instead of a table")] = False,
) -> None:
    """Splits the last layers into one critical path a class; with --classes cuts out a smaller network of some."""
    from pocketstep.build import Workshop
    from pocketstep.console import Console
    from pocketstep.decouple.stage import figures, specialised
    from pocketstep.weights import save_network

    names = [name.strip() for name in classes.split(",") if name.strip()]
    with Console(quiet=as_json) as console:
        workshop = Workshop(recipe, out, data)
        result: dict[str, Any] = {}
        if bundle:
            carried = workshop.carried(names, bundle, console, [name.strip() for name in runtime.split(",")])
            result["bundle"] = {"path": str(bundle), "bytes": sum(e.bytes for e in carried.manifest.files.values())}
        made = workshop.decoupled(console)
        networks, result["report"] = {"decoupled": made.network}, made.report
        if names:
            part, result["specialised"] = specialised(
                workshop.recipe, workshop.material, made.network, names, workshop.watching(console)
            )
            target = out / f"specialised-{_file_name(names)}.safetensors"
            save_network(part, target)
            result["specialised"]["file"] = str(target)
            networks["specialised"] = part
        console.stage("sizes and times")
        networks = {"whole": workshop.base(console), **networks}
        result["figures"] = figures(networks, workshop.material.cloud_test)
    typer.echo(json.dumps(result)) if as_json else _print(result)


def _file_name(names: list[str]) -> str:
    joined = "-".join(names)
    if not all(char.isalnum() or char in "-_." for char in joined) or len(joined) > 100:
        return f"{len(names)}-classes"
    return joined


def _print(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    report, accuracy = result["report"], result["report"]["accuracy"]
    table = Table(title=f"paths {report['setting']}: {len(report['layers'])} convolutions split")
    for column in ("channels of", "filters", "a path", "both criteria agree", "correlation", "in several paths"):
        table.add_column(column, justify="left" if column == "channels of" else "right")
    for s in report["sets"]:
        table.add_row(
            s["layer"], str(s["filters"]), str(s["kept"]), f"{s['overlap']:.0%}", f"{s['correlation']:.2f}",
            f"{s['shared']:.0%}",
        )  # fmt: skip
    sizes = Table(title="networks")
    for column in ("network", "parameters", "MACs", "ms an image", "per class"):
        sizes.add_column(column, justify="left" if column == "network" else "right")
    worth = {"whole": accuracy["whole"], "decoupled": accuracy["tuned"]}
    worth.update({"specialised": result["specialised"]["per_class_mean"]} if "specialised" in result else {})
    for name, f in result["figures"].items():
        size = (f"{f['parameters']:,}", f"{f['macs']:,}", f"{f['milliseconds']:.2f}")
        sizes.add_row(name, *size, f"{worth[name]:.1%}")
    console = Console()
    console.width = max(console.width, 100)
    console.print(table)
    console.print(sizes)
    typer.echo(f"right after the split: {accuracy['split']:.1%}")
    if "specialised" in result:
        found = result["specialised"]
        if "whole_network" in found:
            typer.echo(f"the decoupled network, choosing among these classes only: {found['whole_network']:.1%}")
        else:
            typer.echo(f"one against all, over all test images as they come: {found['all_images']:.1%}")
        typer.echo(f"{found['file']}")
    if "bundle" in result:
        typer.echo(f"{result['bundle']['path']}: {result['bundle']['bytes'] / 2**20:.1f} MiB")


def fleet(
    recipe: Annotated[str, typer.Argument(help="a .toml file with a [fleet] section, or the name of one of ours")],
    out: Annotated[Path, typer.Option("-o", "--out", help="folder: next.bundle, fleet.json")],
    bundle: Annotated[
        Path | None, typer.Option(help="that all devices have; built from the recipe where not given")
    ] = None,
    data: Annotated[str, typer.Option("--data", help="where the images are, if not where the recipe says")] = "",
    engine: Annotated[
        Engine, typer.Option(help="flower: its simulation engine, on Ray; pool: the same apps in a pool of processes")
    ] = Engine.flower,
    processes: Annotated[int, typer.Option(help="that devices are simulated in")] = 2,
    noise: Annotated[
        float | None,
        typer.Option(
            help="differential privacy: each device's change is clipped to the recipe's fleet.norm, and each average "
            "gets Gaussian noise of this multiplier; 0 for none; instead of the recipe's fleet.noise"
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object instead of a table")] = False,
) -> None:
    """Simulates a fleet with Flower: devices train their own classes' paths, the server averages, the next bundle."""
    from pocketstep.build import Workshop
    from pocketstep.console import Console
    from pocketstep.federate.simulate import fleet as run
    from pocketstep.federate.simulate import need_flower, private
    from pocketstep_device.bundle import Bundle

    need_flower(engine.value)
    with Console(quiet=as_json) as console:
        workshop = Workshop(recipe, out / "stages", data)
        part = workshop.recipe.fleet
        if part is None:
            raise InputError("the recipe has no [fleet]: add one, as in models/digits-paths.toml")
        if noise is not None:
            part = replace(part, noise=noise)
        private(part)  # its error comes before the work
        opened = Bundle.open(bundle) if bundle else workshop.bundle(out / "first.bundle", console)
        console.stage(f"{part.clients} devices, {part.rounds} rounds")
        material = workshop.material
        result = run(part, opened, material.elsewhere, material.test, out, processes=processes, engine=engine.value)
    typer.echo(json.dumps(result)) if as_json else _print_fleet(result, out)


def _print_fleet(result: dict[str, Any], out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{result['method']}, {result['clients']} devices; before: {result['accuracy'][0]:.1%}")
    for column in ("round", "asked", "used", "rejected", "silent", "bounded", "up, KiB", "new classes", "per class"):
        table.add_column(column, justify="right")
    for r, accuracy in zip(result["rounds"], result["accuracy"][1:], strict=False):
        facts = [r[k] for k in ("number", "asked", "used", "rejected", "failed", "clipped")]
        table.add_row(*map(str, facts), f"{r['bytes_up'] / 1024:,.0f}", ", ".join(r["found"]), f"{accuracy:.1%}")
    console = Console()
    console.width = max(console.width, 100)
    console.print(table)
    used = max(1, sum(r["used"] for r in result["rounds"]))
    each = sum(r["bytes_up"] for r in result["rounds"]) / used
    typer.echo(
        f"{each:,.0f} bytes up a device and round, {each / result['bytes_of_network']:.1%} of the "
        f"{result['bytes_of_network']:,} that all weights of the network in the bundle are; {out / 'next.bundle'}"
    )
