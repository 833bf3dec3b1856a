"""``pocketstep export``: any user's CNN to a bundle, no recipe."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pocketstep_device.errors import InputError

if TYPE_CHECKING:
    from pocketstep.compile.options import StepOptions
    from pocketstep.data import Dataset
    from pocketstep.plan import Role


class PlanPreset(str, Enum):
    """What is trained."""

    centre = "centre"
    last = "last"
    full = "full"
    head = "head"
    groups = "groups"


class Gradient(str, Enum):
    """How gradients pass a trained centre."""

    exact = "exact"
    centre = "centre"


def export(
    model: Annotated[str, typer.Option(help="module:factory, such as torchvision.models:resnet18")],
    size: Annotated[str, typer.Option("--input", help="channels,height,width")],
    classes: Annotated[Path, typer.Option(help="text file, one class name a line, in the order of the outputs")],
    out: Annotated[Path, typer.Option("-o", "--out", help="where the bundle goes")],
    weights: Annotated[Path | None, typer.Option(help=".safetensors file with the module's names")] = None,
    images: Annotated[
        Path | None, typer.Option(help="folder of pictures, one folder a class: replay, range and closed form")
    ] = None,
    plan: Annotated[PlanPreset, typer.Option(help="what is trained on the device")] = PlanPreset.centre,
    train: Annotated[
        list[str] | None, typer.Option(help="PATTERN=centre|full|frozen for modules; may be repeated")
    ] = None,
    cut: Annotated[str | None, typer.Option(help="module whose output becomes the latent")] = None,
    spare_classes: Annotated[int, typer.Option(help="class slots for what devices learn")] = 8,
    batch: Annotated[int, typer.Option(help="of every program")] = 32,
    runtime: Annotated[str, typer.Option(help="which programs, between commas")] = "litert,executorch,coreml",
    mean: Annotated[str | None, typer.Option(help="a channel, of 0..1 (default: ImageNet's; grey 0.5)")] = None,
    std: Annotated[str | None, typer.Option(help="a channel, of 0..1 (default: ImageNet's; grey 0.5)")] = None,
    replay: Annotated[
        int, typer.Option(help="pictures of each class that are replayed; 0: no picture goes along")
    ] = 20,
    held_back: Annotated[float, typer.Option(help="share of the pictures that only judge updates")] = 0.2,
    input_gradient: Annotated[Gradient, typer.Option(help="behind a trained centre")] = Gradient.exact,
    gradient_filter: Annotated[
        bool, typer.Option("--gradient-filter", help="trained centres see gradients averaged over 2x2 pixels")
    ] = False,
    optimiser: Annotated[str, typer.Option(help="sgd, nesterov, adam or adamw")] = "sgd",
    losses: Annotated[str, typer.Option(help="of labels, soft, logits, features, prototypes")] = "labels,soft",
    clip: Annotated[bool, typer.Option("--clip", help="the step can clip the gradients' norm")] = False,
    project: Annotated[bool, typer.Option("--project", help="the step can project updates (CsKO)")] = False,
    int8_prefix: Annotated[bool, typer.Option("--int8-prefix", help="int8 weights before the cut")] = False,
    expansion: Annotated[int, typer.Option(help="random features of the closed-form head (ACIL); 0: none")] = 0,
    directions: Annotated[
        int | None,
        typer.Option(help="in which classes have covariances of their own; 0: none (default: what fits a MiB)"),
    ] = None,
    mirrored: Annotated[
        bool, typer.Option("--mirrored", help="look at mirror images, too: surer, twice the time and latents")
    ] = False,
    plain: Annotated[bool, typer.Option("--plain", help="the network as it is goes along, for bench step")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Turns your own network into a bundle that classifies and learns on a device.

    Without --images the bundle has nothing to replay: old classes are not protected when new ones are learned.
    """
    from pocketstep.assemble import build_bundle
    from pocketstep.console import Console, export_summary
    from pocketstep.export.run import Exporters
    from pocketstep.request import Request
    from pocketstep.user_model import default_normalisation, input_size, load_model, numbers, read_classes

    shape, names = input_size(size), read_classes(classes)
    usual = default_normalisation(shape[2])
    request = Request(
        name=out.name.removesuffix(".bundle") or "bundle",
        classes=names,
        input_shape=shape,
        mean=numbers(mean, "--mean") if mean else usual[0],
        std=numbers(std, "--std") if std else usual[1],
        preset=plan.value,
        cut=cut,
        roles=[_role(text) for text in train or []],
        input_gradient=input_gradient.value,
        gradient_filter=gradient_filter,
        spare_classes=spare_classes,
        batch=batch,
        step=_options(optimiser, losses, clip, project),
        replay_per_class=replay,
        expansion=expansion,
        directions=directions,
        mirrored=mirrored,
        prefix_bits=8 if int8_prefix else 32,
        plain=plain,
    )
    network = load_model(model, weights, len(names))
    data, judged = _pictures(images, request, held_back)
    with Console(quiet=as_json) as console, Exporters(runtime.split(","), console.exported) as exporters:
        bundle = build_bundle(network, network, request, data, judged, out, exporters, console.stage)
    export_summary(bundle, as_json=as_json, replayed=data is not None)


def _role(text: str) -> tuple[str, Role]:
    pattern, _, role = text.rpartition("=")
    if not pattern:
        raise InputError(f"--train '{text}' must be PATTERN=ROLE, such as 'layer4.*.conv2=full'")
    chosen: Any = role
    return pattern, chosen


def _options(optimiser: str, losses: str, clip: bool, project: bool) -> StepOptions:
    from pocketstep.compile.options import StepOptions

    chosen: Any = tuple(part.strip() for part in losses.split(","))
    name: Any = "sgd" if optimiser == "nesterov" else optimiser
    return StepOptions(name, optimiser == "nesterov", chosen, clip, "matrix" if project else "none")


def _pictures(folder: Path | None, request: Any, held_back: float) -> tuple[Dataset | None, Dataset | None]:
    if folder is None:
        return None, None
    from pocketstep.pictures import load_folder

    height, width, channels = request.input_shape
    everything = load_folder(folder, (height, width), channels, request.classes)
    return everything.split(held_back, request.seed) if request.replay_per_class else (everything, None)
