"""``pocketstep targets``: a target pack, from a shell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def targets(
    bundle: Annotated[Path, typer.Argument(help="the bundle that will learn, folder or zip")],
    images: Annotated[Path, typer.Option(help="folder of pictures without labels, or a .npy or .npz file")],
    out: Annotated[Path, typer.Option("-o", "--out", help="where the pack goes")],
    teacher: Annotated[
        Path | None, typer.Option(help="folder of 'pocketstep train', or a network's .safetensors file")
    ] = None,
    model: Annotated[str | None, typer.Option(help="your own teacher in place of it: module:factory")] = None,
    weights: Annotated[Path | None, typer.Option(help="your teacher's .safetensors file")] = None,
    classes: Annotated[
        Path | None, typer.Option(help="names of the teacher's outputs, one a line (default: the bundle's classes)")
    ] = None,
    runtime: Annotated[str, typer.Option(help="what encodes the images: litert or executorch")] = "litert",
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """What a teacher says of images without labels, for devices to learn from: pocketstep-device learn --targets PACK.

    The teacher may know classes that the bundle does not: devices give them free slots.
    """
    from pocketstep.console import Console
    from pocketstep.target_packs import make_pack, read_teacher, read_unlabelled
    from pocketstep.user_model import load_model, read_classes
    from pocketstep_device.bundle import Bundle
    from pocketstep_device.errors import InputError

    if (teacher is None) == (model is None):
        raise InputError("give the teacher, either with --teacher or with --model")
    opened = Bundle.open(bundle)
    names = read_classes(classes) if classes else tuple(opened.manifest.task.classes)
    network = read_teacher(teacher) if teacher else load_model(str(model), weights, len(names))
    pictures = read_unlabelled(images, opened.manifest.task.input.shape)
    with Console(quiet=as_json) as console:
        console.stage(f"the teacher on {len(pictures)} images")
        pack = make_pack(opened, network, names, pictures, runtime)
    pack.write(out, opened)
    new = [name for name in names if name not in opened.manifest.task.classes]
    found = {
        "images": len(pictures), "classes": list(names), "new_classes": new, "features": pack.features is not None,
        "bytes": out.stat().st_size,
    }  # fmt: skip
    if as_json:
        typer.echo(json.dumps(found))
        return
    typer.echo(f"{out}: {len(pictures)} images, {found['bytes']:,} bytes, for {bundle} alone")
    if new:
        typer.echo(f"classes that the bundle does not know yet: {', '.join(new)}")
