"""The cloud's part of target packs: latents by the bundle's program, logits and features by the teacher."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pocketstep.data import Images
from pocketstep.training import prepare
from pocketstep.weights import load_network
from pocketstep_device import Learner
from pocketstep_device.bundle import Bundle
from pocketstep_device.errors import InputError
from pocketstep_device.images import check_images, read_images
from pocketstep_device.target_pack import TargetPack, feature_length

BATCH = 256


def make_pack(
    bundle: Bundle, teacher: nn.Module, classes: Sequence[str], images: Images, runtime: str = "litert"
) -> TargetPack:
    """What a teacher says of images that nobody labelled.

    The latents are the bundle's own, by its program on a runtime, so that they are what a device would make of the
    images. Images are normalised for the teacher as for the bundle. Features (the teacher's input of its last linear
    layer, Jb) go along where the bundle's step takes such targets and they have its length.

    Args:
        bundle: the one that will learn.
        teacher: takes (B, C, H, W), gives logits (B, len(classes)).
        classes: of the teacher's outputs.
        images: uint8 (N, H, W, C), of the bundle's input shape.
        runtime: that encodes.

    Raises:
        InputError: images of another shape, or a teacher that cannot take them or knows another number of classes.
    """
    task, length = bundle.manifest.task.input, feature_length(bundle.manifest)
    images = check_images(images, tuple(task.shape))
    logits, features = [], []
    seen: list[Tensor] = []
    heads = [module for module in teacher.modules() if isinstance(module, nn.Linear)]
    hooks = [heads[-1].register_forward_pre_hook(lambda m, i: seen.append(i[0]))] if heads and length else []
    teacher.eval()
    try:
        for start in range(0, len(images), BATCH):
            rows = prepare(images[start : start + BATCH], task.mean, task.std)
            logits.append(_logits(teacher, rows, len(classes)))
            features += [seen.pop().flatten(1)] if seen else []
    finally:
        for hook in hooks:
            hook.remove()
    joined = torch.cat(features).numpy().astype(np.float32) if features else None
    if joined is not None and joined.shape[1] != length:
        joined = None
    with tempfile.TemporaryDirectory() as folder, Learner.open(bundle.path, folder, runtime) as learner:
        latents = learner.encode(images)
    return TargetPack(tuple(classes), latents, torch.cat(logits).numpy().astype(np.float32), joined)


@torch.no_grad()
def _logits(teacher: nn.Module, rows: Tensor, classes: int) -> Tensor:
    try:
        logits: Tensor = teacher(rows)
    except RuntimeError as error:
        raise InputError(f"the teacher cannot take images of {tuple(rows.shape[1:])}: {error}") from None
    if logits.ndim != 2 or logits.shape[1] != classes:
        raise InputError(
            f"the teacher gives {tuple(logits.shape[1:])} outputs, and {classes} classes are named; name each of its "
            "outputs with --classes"
        )
    if not torch.isfinite(logits).all():
        raise InputError("the teacher's outputs are not all finite numbers; train it again")
    return logits


def read_teacher(path: Path) -> nn.Module:
    """A network of ours: a file of ``save_network``, or the folder where ``pocketstep train`` left its teacher.

    Raises:
        InputError: there is none, or it is damaged.
    """
    return load_network(path / "teacher.safetensors" if path.is_dir() else path)


def read_unlabelled(path: Path, shape: Sequence[int]) -> Images:
    """Images from a folder of pictures, scaled and cropped to ``shape`` (H, W, C), or from a ``.npy`` or ``.npz`` file.

    Raises:
        InputError: none there, unreadable, or of another shape.
    """
    images = read_images(path, shape).images
    if images.dtype != np.uint8:
        raise InputError(f"{path} holds {images.dtype}; give images as uint8")
    return images
