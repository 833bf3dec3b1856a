"""From a student to a bundle: plan, graphs, programs, state, replay, golden trace, manifest."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from pocketstep import __version__, golden, targets
from pocketstep.compile import signatures as sig
from pocketstep.compile import training
from pocketstep.compile.lower import lower
from pocketstep.compile.signatures import LearningModel, Quantisation, Signature
from pocketstep.compile.trace import module_path, trace
from pocketstep.compile.walk import Kernels, Walk, initial_state
from pocketstep.data import Dataset, normalisation
from pocketstep.export import RUNTIMES
from pocketstep.export.report import Report
from pocketstep.export.run import Exporters
from pocketstep.networks import ResidualNet
from pocketstep.plan import Preset, make_plan
from pocketstep.recipe import Recipe
from pocketstep.schedules import hyper, schedules
from pocketstep.training import prepare
from pocketstep_device.bundle import Bundle
from pocketstep_device.bundle_writer import write_bundle
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

    model: LearningModel
    signatures: dict[str, Signature]
    state: dict[str, Tensor]


def plan_student(student: ResidualNet, recipe: Recipe, data: Dataset) -> Parts:
    """Traces the student, assigns roles, finds the cut, and writes down every signature."""
    mean, std = normalisation(data)
    height, width, channels = data.images.shape[1:]
    network = trace(student, (channels, height, width))
    plan = make_plan(
        network, cast(Preset, recipe.plan.preset), len(data.classes) + recipe.plan.spare_classes, recipe.plan.cut
    )
    sample = prepare(data.images[:256], mean, std)
    latent = Walk(network, plan, Kernels(), {}).prefix(sample.permute(0, 2, 3, 1)).detach()
    cells = recipe.plan.pooled_cells
    if latent.shape[1] % cells or latent.shape[2] % cells:
        raise InputError(
            f"the recipe's plan.pooled_cells is {cells}, which does not divide the latent's {latent.shape[1]} x "
            f"{latent.shape[2]} pixels after '{module_path(plan.cut)}'; choose a divisor"
        )
    model = LearningModel(
        network, plan, Quantisation.of(latent), mean, std, (height, width, channels),
        (latent.shape[1], latent.shape[2], latent.shape[3]), cells, torch.zeros(()),
    )  # fmt: skip
    trained = initial_state(network, plan)
    features = targets.joined_features(model, trained, data.images)
    origin = features.mean(0)
    model = replace(model, origin=origin)
    batch = recipe.plan.batch
    made = [
        sig.encode(model, batch),
        sig.classify(model, batch),
        training.step(model, batch),
        training.score(model, batch),
        sig.statistics(model, batch),
        sig.solve(model),
    ]
    state = targets.initial_state(model, trained, data, features - origin)
    return Parts(model, {s.name: s for s in made}, state)


def build_bundle(
    student: ResidualNet,
    teacher: ResidualNet,
    recipe: Recipe,
    data: Dataset,
    held_back: Dataset,
    target: Path,
    exporters: Exporters,
    on_stage: OnStage,
) -> Bundle:
    """Compiles, exports and writes a bundle.

    Args:
        student: the network that goes to the device.
        teacher: the network whose logits go along as targets.
        recipe: plan and replay sections are used.
        data: the cloud's training images.
        held_back: the cloud's images that no training saw.
        target: the bundle's folder, replaced when it is a bundle.
        exporters: started processes, one a runtime.
        on_stage: told what is being done.
    """
    on_stage("plan and compile")
    parts = plan_student(student, recipe, data)
    graphs = [lower(signature) for signature in parts.signatures.values()]
    work = target.with_name(target.name + ".programs")
    shutil.rmtree(work, ignore_errors=True)
    exporters.begin(graphs, work)
    on_stage("targets, latents and golden trace")
    model, defaults = parts.model, _hyper(parts)
    replayed = data.per_class(recipe.replay.per_class, recipe.data.seed)
    samples = targets.replay_samples(model, teacher, replayed, held_back)
    first = torch.from_numpy(data.images[: recipe.plan.batch]).float()
    values = {name: entry["default"] for name, entry in defaults.items()}
    trace_bytes = golden.record(model, parts.signatures, parts.state, first, samples, values)
    on_stage(f"export to {', '.join(exporters.runtimes)}")
    reports = exporters.finish()
    on_stage("bundle")
    files: dict[str, Path | bytes] = {
        "state.safetensors": write_tensors({name: value.numpy() for name, value in parts.state.items()}),
        "replay.safetensors": targets.replay_bytes(samples),
        "golden.safetensors": trace_bytes,
        **_program_files(work, exporters.runtimes),
    }
    bundle = write_bundle(target, _manifest(parts, recipe, data, reports, defaults), files)
    shutil.rmtree(work)
    return bundle


def _hyper(parts: Parts) -> dict[str, Any]:
    return hyper(sorted(set(parts.model.plan.trained_groups.values())))


def _program_files(work: Path, runtimes: Sequence[str]) -> dict[str, Path | bytes]:
    files: dict[str, Path | bytes] = {}
    for name in (RUNTIMES[runtime] for runtime in runtimes):
        path = work / name
        inside = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        files.update({str(p.relative_to(work)): p for p in inside})
    return files


def _manifest(
    parts: Parts, recipe: Recipe, data: Dataset, reports: dict[str, Report], defaults: dict[str, Any]
) -> dict[str, Any]:
    model, plan = parts.model, parts.model.plan
    return {
        "format": FORMAT,
        "version": VERSION,
        "name": recipe.name,
        "producer": f"pocketstep {__version__}",
        "task": {
            "classes": list(data.classes),
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
        "plan": {"preset": plan.preset, "cut": module_path(plan.cut), "parameters": _parameters(parts)},
        "signatures": {name: _signature(s) for name, s in parts.signatures.items()},
        "state": [
            {"name": name, "shape": list(value.shape), "dtype": "float32", "kind": _kind(name)}
            for name, value in parts.state.items()
        ],
        "hyper": defaults,
        "schedules": schedules(),
        "cost": _cost(parts),
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


def _signature(signature: Signature) -> dict[str, Any]:
    def tensors(specs: tuple[sig.Spec, ...]) -> list[dict[str, Any]]:
        return [{**asdict(spec), "shape": list(spec.shape), "dtype": "float32"} for spec in specs]

    return {
        "batch": signature.batch,
        "inputs": tensors(signature.inputs),
        "outputs": tensors(signature.outputs),
    }


def _kind(name: str) -> str:
    return KINDS.get(name) or ("optimiser" if name.startswith("momentum.") else "parameter")


def _cost(parts: Parts) -> dict[str, float]:
    model = parts.model
    trained = sum(math.prod(p.trained_shape or ()) for p in model.plan.trained)
    everything = sum(math.prod(p.shape) for p in model.plan.parameters.values())
    height, width, channels = model.latent_shape
    return {
        "parameters": float(everything),
        "trained_parameters": float(trained),
        "latent_bytes": float(height * width * channels),
    }
