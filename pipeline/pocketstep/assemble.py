"""From a student to a bundle: plan, graphs, programs, state, replay, golden trace, manifest."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pocketstep import __version__, golden, targets
from pocketstep.bench.memory import write_measured
from pocketstep.compile import projection, training
from pocketstep.compile import signatures as sig
from pocketstep.compile.cost import cost
from pocketstep.compile.graph import module_path
from pocketstep.compile.lower import lower
from pocketstep.compile.quantised import round_prefix
from pocketstep.compile.sharing import compact_convolutions
from pocketstep.compile.signatures import LearningModel, Quantisation, Signature
from pocketstep.compile.trace import trace
from pocketstep.compile.walk import Kernels, Walk, initial_state, unruled_prefix
from pocketstep.data import Dataset, Images, normalisation
from pocketstep.decouple.surgery import Decoupling, decoupling_of
from pocketstep.export import RUNTIMES
from pocketstep.export.report import Report
from pocketstep.export.run import Exporters
from pocketstep.plan import Preset, make_plan
from pocketstep.recipe import Recipe
from pocketstep.request import Request
from pocketstep.schedules import hyper, schedules
from pocketstep.training import prepare
from pocketstep_device.bundle import Bundle
from pocketstep_device.errors import InputError
from pocketstep_device.manifest import FORMAT
from pocketstep_device.manifest_checks import VERSION
from pocketstep_device.tensors import write_tensors

OnStage = Callable[[str], None]
KINDS = {"count": "statistics", "total": "statistics", "second": "statistics", "class_mask": "control",
         "blend": "control", "closed.weight": "head", "closed.bias": "head"}  # fmt: skip


@dataclass(frozen=True)
class Parts:
    """What a bundle is made of before its programs are exported."""

    request: Request
    model: LearningModel
    signatures: dict[str, Signature]
    state: dict[str, Tensor]
    decoupling: Decoupling | None = None


def request_of(recipe: Recipe, data: Dataset, decoupling: Decoupling | None = None) -> Request:
    """What a recipe asks for, of a network that knows the classes of ``data``; paths are trained with all their taps.

    Raises:
        InputError: there are not as many spare paths as spare classes.
    """
    if decoupling and (decoupling.rest or decoupling.spare != recipe.plan.spare_classes):
        raise InputError(
            f"the network has {decoupling.spare} spare paths and the recipe's plan {recipe.plan.spare_classes} spare "
            "classes: a new class needs a path, so set decouple.spare_paths = plan.spare_classes"
        )
    mean, std = normalisation(data)
    height, width, channels = data.images.shape[1:]
    return Request(
        recipe.name, data.classes, (height, width, channels), mean, std, cast(Preset, recipe.plan.preset),
        recipe.plan.cut or None, spare_classes=recipe.plan.spare_classes, pooled_cells=recipe.plan.pooled_cells,
        roles=[(layer, "full") for layer in decoupling.layers] if decoupling else (),
        batch=recipe.plan.batch, replay_per_class=recipe.replay.per_class, seed=recipe.data.seed,
    )  # fmt: skip


def plan_student(student: nn.Module, request: Request, data: Dataset | None) -> Parts:
    """Traces the student, assigns roles, finds the cut, and writes down every signature.

    Without ``data`` the latents' range comes from made-up images, and the closed form begins without statistics.
    """
    model = learning_model(student, request, data.images[:256] if data else made_up_images(request.input_shape))
    trained = initial_state(model.network, model.plan)
    features = None
    if data:
        features = targets.joined_features(model, trained, data.images)
        model = replace(model, origin=features.mean(0))
        features = features - model.origin
    batch = request.batch
    made = [
        sig.encode(model, batch),
        sig.classify(model, batch),
        training.step(model, batch, request.step),
        training.score(model, batch, request.step),
        sig.statistics(model, batch),
        sig.solve(model),
    ]
    if request.step.projection != "none":
        made.append(projection.project(model, request.step))
    if request.plain:
        made.append(sig.plain(model, batch))
    state = targets.initial_state(model, request, trained, data, features)
    return Parts(request, model, {s.name: s for s in made}, state, decoupling_of(student))


def learning_model(student: nn.Module, request: Request, images: Images) -> LearningModel:
    """The traced network with its plan; ``images`` give the latents' range.

    Raises:
        InputError: the network cannot be traced or planned as asked, or has not as many outputs as classes.
    """
    height, width, channels = request.input_shape
    network = trace(student, (channels, height, width))
    outputs = int(network.output.meta["val"].shape[1])
    if outputs != len(request.classes):
        raise InputError(
            f"the network gives {outputs} logits, but {len(request.classes)} classes are named; name each output once"
        )
    plan = make_plan(
        network, request.preset, request.slots, request.cut, roles=request.roles,
        input_gradient=request.input_gradient, gradient_filter=request.gradient_filter,
    )  # fmt: skip
    if request.prefix_bits == 8:
        round_prefix(network, plan)
    sample = prepare(images, request.mean, request.std)
    latent = Walk(network, plan, Kernels(), {}).prefix(sample.permute(0, 2, 3, 1)).detach()
    cells = choose_cells(request.pooled_cells, latent.shape[1], latent.shape[2], latent.shape[3], module_path(plan.cut))
    kernels = Kernels(compact=compact_convolutions(network, plan, request.batch, request.allowance))
    model = LearningModel(
        network, plan, Quantisation.of(latent), request.mean, request.std, request.input_shape,
        (latent.shape[1], latent.shape[2], latent.shape[3]), cells, torch.zeros(()), kernels,
    )  # fmt: skip
    return replace(model, origin=torch.zeros(model.closed_size))


def choose_cells(wanted: int | None, height: int, width: int, channels: int, cut: str) -> int:
    """Cells a side of the grid that pools the latent: as asked for, or the most of 4, 2, 1 within 512 values.

    0 for a latent of one pixel, which is (nearly) the penultimate features.

    Raises:
        InputError: the number asked for does not divide the latent's sides.
    """
    if wanted is None:
        if height * width == 1:
            return 0
        return next((n for n in (4, 2) if height % n == width % n == 0 and n * n * channels <= 512), 1)
    if height % wanted or width % wanted:
        raise InputError(
            f"{wanted} pooled cells do not divide the latent's {height} x {width} pixels after '{cut}'; "
            "choose a divisor (plan.pooled_cells in a recipe)"
        )
    return wanted


def made_up_images(shape: tuple[int, int, int], count: int = 64) -> Images:
    """Smooth noise of every contrast, uint8 (count, H, W, C): a stand-in where nobody gave images."""
    generator = torch.Generator().manual_seed(0)
    height, width, channels = shape
    scales = [torch.rand(count, channels, -(-height // s), -(-width // s), generator=generator) for s in (1, 4, 16)]
    grown = [F.interpolate(x, size=(height, width), mode="bilinear") for x in scales]
    contrast = torch.linspace(0.2, 1.0, count).view(-1, 1, 1, 1)
    noise = (sum(grown) / 3 - 0.5) * 2.5 * contrast + 0.5
    images: Images = (noise.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    return images


def build_bundle(
    student: nn.Module,
    teacher: nn.Module,
    request: Request,
    data: Dataset | None,
    held_back: Dataset | None,
    target: Path,
    exporters: Exporters,
    on_stage: OnStage,
) -> Bundle:
    """Compiles, exports and writes a bundle.

    Args:
        student: the network that goes to the device, in evaluation mode.
        teacher: the network whose logits go along as targets; the student itself will do.
        request: what the bundle shall be.
        data: the cloud's training images, or None: nothing to replay then.
        held_back: the cloud's images that no training saw, or None.
        target: the bundle's folder, replaced when it is a bundle.
        exporters: started processes, one a runtime.
        on_stage: told what is being done.
    """
    on_stage("plan and compile")
    parts = plan_student(student, request, data)
    graphs = [lower(signature) for signature in parts.signatures.values()]
    work = target.with_name(target.name + ".programs")
    shutil.rmtree(work, ignore_errors=True)
    exporters.begin(graphs, work, unruled_prefix(parts.model.network, parts.model.plan))
    on_stage("targets, latents and golden trace")
    model, defaults = parts.model, _hyper(parts)
    samples = targets.replay_samples(model, teacher, _replayed(request, data), held_back)
    images = data.images[: request.batch] if data else made_up_images(request.input_shape, request.batch)
    values = {name: entry["default"] for name, entry in defaults.items()}
    shown = samples
    if len(samples) == 0:
        made_up = made_up_images(request.input_shape, 256)
        shown = targets.unlabelled_samples(model, made_up, len(request.classes))
    trace_bytes = golden.record(
        model, parts.signatures, parts.state, _whole_batch(images, request.batch), shown, values, request.step
    )
    on_stage(f"export to {', '.join(exporters.runtimes)}")
    reports = exporters.finish()
    on_stage("bundle")
    files: dict[str, Path | bytes] = {
        "state.safetensors": write_tensors({name: value.numpy() for name, value in parts.state.items()}),
        "replay.safetensors": targets.replay_bytes(samples),
        "golden.safetensors": trace_bytes,
        **_program_files(work, exporters.runtimes),
    }
    bundle = write_measured(target, _manifest(parts, reports, defaults), files)
    shutil.rmtree(work)
    return bundle


def _replayed(request: Request, data: Dataset | None) -> Dataset | None:
    return data.per_class(request.replay_per_class, request.seed) if data else None


def _whole_batch(images: Images, batch: int) -> Tensor:
    rows = torch.arange(batch) % len(images)
    return torch.from_numpy(images)[rows].float()


def _hyper(parts: Parts) -> dict[str, Any]:
    return hyper(parts.request.step, parts.model.plan.trained_groups.values())


def _program_files(work: Path, runtimes: Sequence[str]) -> dict[str, Path | bytes]:
    files: dict[str, Path | bytes] = {}
    for name in (RUNTIMES[runtime] for runtime in runtimes):
        path = work / name
        inside = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        files.update({str(p.relative_to(work)): p for p in inside})
    return files


def _manifest(parts: Parts, reports: dict[str, Report], defaults: dict[str, Any]) -> dict[str, Any]:
    request, model, plan = parts.request, parts.model, parts.model.plan
    kinds = _state_kinds(parts)
    return {
        "format": FORMAT,
        "version": VERSION,
        "name": request.name,
        "producer": f"pocketstep {__version__}",
        "release": 0,
        "task": {
            "classes": list(request.classes),
            "slots": plan.slots,
            "input": {
                "shape": list(model.input_shape),
                "range": [0, 255],
                "colour": "grey" if model.input_shape[2] == 1 else "rgb",
                "mean": list(model.mean),
                "std": list(model.std),
            },
        },
        "latent": {"shape": list(model.latent_shape), "dtype": "int8"},
        "plan": {
            "preset": plan.preset,
            "cut": module_path(plan.cut),
            "parameters": _parameters(parts),
            **_paths(parts),
        },
        "signatures": {name: _signature(s) for name, s in parts.signatures.items()},
        "state": [
            {"name": name, "shape": list(value.shape), "dtype": "float32", "kind": kinds[name]}
            for name, value in parts.state.items()
        ],
        "hyper": defaults,
        "schedules": schedules(
            statistics=bool(parts.state["count"].any()), options=parts.request.step, paths=parts.decoupling is not None
        ),
        "cost": cost(model.network, plan, 1 if request.step.optimiser == "sgd" else 2).to_manifest(),
        "runtimes": {
            name: {"file": RUNTIMES[name], "versions": report.versions, "delegated": report.delegated}
            for name, report in reports.items()
        },
    }


def _parameters(parts: Parts) -> list[dict[str, Any]]:
    return [
        {
            "name": p.name,
            "role": p.role,
            "shape": list(p.shape),
            "trained": p.trained is not None,
            "group": p.group,
        }
        for p in parts.model.plan.parameters.values()
    ]


def _paths(parts: Parts) -> dict[str, Any]:
    """Where the paths lie in the trained tensors; nothing where there are none."""
    found, decoupling = list[dict[str, Any]](), parts.decoupling
    for p in parts.model.plan.trained if decoupling else ():
        shape = p.trained_shape or ()
        axes = [0, 1] if p.trained == "head.weight" else [1] if len(shape) == 2 else [0]
        if p.role == "head" or p.name.removesuffix(".weight") in (decoupling.layers if decoupling else ()):
            found += [{"name": p.trained, "axis": axis, "size": shape[axis] // parts.model.plan.slots} for axis in axes]
    return {"paths": found} if found else {}


def _signature(signature: Signature) -> dict[str, Any]:
    def tensors(specs: tuple[sig.Spec, ...]) -> list[dict[str, Any]]:
        return [{**asdict(spec), "shape": list(spec.shape), "dtype": "float32"} for spec in specs]

    return {
        "batch": signature.batch,
        "inputs": tensors(signature.inputs),
        "outputs": tensors(signature.outputs),
    }


def _state_kinds(parts: Parts) -> dict[str, str]:
    known = {**KINDS, **training.state_kinds(parts.model, parts.request.step)}
    return {name: known.get(name, "parameter") for name in parts.state}
