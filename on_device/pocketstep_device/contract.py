"""Whether a manifest's signatures are those that a learner calls: names, shapes and batches, before anything runs."""

from __future__ import annotations

from pocketstep_device.errors import BundleError
from pocketstep_device.manifest import Manifest, Shape, Tensor

_STATISTICS = ("count", "total", "second")
_NEEDED = {"solve": ("solve", "statistics"), "train": ("step", "score")}
"""Signatures that a phase of a schedule calls, by its kind."""


def check_contract(manifest: Manifest) -> None:
    """Checks every signature that a learner may call.

    Raises:
        BundleError: one is missing, or lacks an input or output, or has it in another shape; the message names it.
    """
    slots, latent, image = manifest.task.slots, manifest.latent.shape, manifest.task.input.shape
    inputs: dict[str, dict[str, Shape | None]] = {
        "encode": {"images": image},
        "classify": {"latents": latent, "class_mask": None},
        "statistics": {"features": None, "labels": (slots,), "label_weights": (), **dict.fromkeys(_STATISTICS)},
        "solve": dict.fromkeys(_STATISTICS),
        "step": {"latents": latent, "labels": (slots,), "label_weights": ()},
        "score": {"latents": latent, "labels": (slots,), "label_weights": ()},
    }
    outputs: dict[str, dict[str, Shape | None]] = {
        "encode": {"latents": latent},
        "classify": {"logits": (slots,), "probabilities": (slots,), "features": None},
        "statistics": dict.fromkeys(_STATISTICS),
        "step": {"loss": None},
    }
    kinds = {str(phase["kind"]) for schedule in manifest.schedules.values() for phase in schedule.phases}
    needed = ["encode", "classify", *(name for kind in sorted(kinds) for name in _NEEDED.get(kind, ()))]
    for name in needed:
        if name not in manifest.signatures:
            raise BundleError(f"The manifest has no signature '{name}'. Build the bundle again, or fetch it again.")
        signature = manifest.signatures[name]
        _check(f"signatures.{name}.inputs", signature.inputs, inputs[name], signature.batch)
        _check(f"signatures.{name}.outputs", signature.outputs, outputs.get(name, {}), signature.batch)


def _check(where: str, tensors: tuple[Tensor, ...], wanted: dict[str, Shape | None], batch: int) -> None:
    """``wanted`` shapes are those of one row; None for tensors that have none, or whose shape the state says."""
    found = {tensor.name: tuple(tensor.shape) for tensor in tensors}
    for name, row in wanted.items():
        if name not in found:
            raise BundleError(f"The manifest's {where} lack '{name}'. Build the bundle again, or fetch it again.")
        if row is not None and found[name] != (batch, *row):
            raise BundleError(
                f"The manifest's {where} have '{name}' of shape {found[name]}, not {(batch, *row)}. "
                "Build the bundle again, or fetch it again."
            )
    if "features" in wanted and (len(found["features"]) != 2 or found["features"][0] != batch):
        raise BundleError(f"The manifest's {where} have 'features' that are no batch. Build the bundle again.")
