"""From a student to a bundle: graphs, programs, replay, golden trace, all in one folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from pocketstep import golden, targets
from pocketstep.bench.memory import write_measured
from pocketstep.blueprint import made_up_images, plan_student
from pocketstep.compile.lower import lower
from pocketstep.compile.walk import unruled_prefix
from pocketstep.data import Dataset, Images
from pocketstep.describe import hyper_of, manifest_of
from pocketstep.export import RUNTIMES
from pocketstep.export.run import Exporters
from pocketstep.request import Request
from pocketstep_device.bundle import Bundle
from pocketstep_device.tensors import write_tensors

OnStage = Callable[[str], None]


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
    blueprint = plan_student(student, request, data)
    graphs = [lower(signature) for signature in blueprint.signatures.values()]
    work = target.with_name(target.name + ".programs")
    shutil.rmtree(work, ignore_errors=True)
    exporters.begin(graphs, work, unruled_prefix(blueprint.model.network, blueprint.model.plan))
    on_stage("targets, latents and golden trace")
    model, defaults = blueprint.model, hyper_of(blueprint)
    samples = targets.replay_samples(model, teacher, _replayed(request, data), held_back)
    images = data.images[: request.batch] if data else made_up_images(request.input_shape, request.batch)
    values = {name: entry["default"] for name, entry in defaults.items()}
    shown = samples
    if len(samples) == 0:
        made_up = made_up_images(request.input_shape, 256)
        shown = targets.unlabelled_samples(model, made_up, len(request.classes))
    trace_bytes = golden.record(
        model, blueprint.signatures, blueprint.state, _whole_batch(images, request.batch), shown, values, request.step
    )
    on_stage(f"export to {', '.join(exporters.runtimes)}")
    reports = exporters.finish()
    on_stage("bundle")
    files: dict[str, Path | bytes] = {
        "state.safetensors": write_tensors({name: value.numpy() for name, value in blueprint.state.items()}),
        "replay.safetensors": targets.replay_bytes(samples),
        "golden.safetensors": trace_bytes,
        **_program_files(work, exporters.runtimes),
    }
    bundle = write_measured(target, manifest_of(blueprint, reports), files)
    shutil.rmtree(work)
    return bundle


def _replayed(request: Request, data: Dataset | None) -> Dataset | None:
    return data.per_class(request.replay_per_class, request.seed) if data and request.replay_per_class else None


def _whole_batch(images: Images, batch: int) -> Tensor:
    rows = torch.arange(batch) % len(images)
    return torch.from_numpy(images)[rows].float()


def _program_files(work: Path, runtimes: Sequence[str]) -> dict[str, Path | bytes]:
    files: dict[str, Path | bytes] = {}
    for name in (RUNTIMES[runtime] for runtime in runtimes):
        path = work / name
        inside = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        files.update({str(p.relative_to(work)): p for p in inside})
    return files
