"""What a bundle brings along: the state before anything was learned, and the cloud's replay samples."""

from __future__ import annotations

import numpy as np

from pocketstep_device.bundle import Bundle
from pocketstep_device.errors import BundleError, InputError
from pocketstep_device.samples import CLOUD, Samples
from pocketstep_device.state import Snapshot
from pocketstep_device.state_checks import checked_values

STATE_FILE = "state.safetensors"
REPLAY_FILE = "replay.safetensors"
_REPLAY_DTYPES = {"latents": np.int8, "labels": np.int64, "soft_targets": np.float32, "held_back": np.bool_}


def initial_snapshot(bundle: Bundle) -> Snapshot:
    """Version 0: the state as it left the cloud, nothing observed.

    Raises:
        BundleError: the file's tensors are not those of the manifest, each of its shape, float32 and finite.
    """
    tensors, _ = bundle.tensors(STATE_FILE)
    wanted = {spec.name: (np.dtype(spec.dtype), tuple(spec.shape)) for spec in bundle.manifest.state}
    found = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
    if found != wanted:
        wrong = min(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
        raise BundleError(
            f"{STATE_FILE} of {bundle.path} does not hold the manifest's state: '{wrong[:200]}' is missing, too many, "
            "or of another shape or type. Build the bundle again, or fetch it again."
        )
    flags = Samples.empty(bundle.manifest.latent.shape, bundle.manifest.task.slots).flags()
    classes = list(bundle.manifest.task.classes)
    info = {"classes": classes, "brought": len(classes), "chunks": [], "updates": 0}
    snapshot = Snapshot(0, {**tensors, **flags}, info, bundle.digest)
    checked_values(snapshot, bundle.manifest, f"{STATE_FILE} of {bundle.path}", BundleError)
    return snapshot


def cloud_samples(bundle: Bundle) -> Samples:
    """The replay set, each sample with the teacher's cached logits.

    Raises:
        BundleError: the file lacks a tensor, or one does not fit the manifest.
    """
    tensors, _ = bundle.tensors(REPLAY_FILE)
    where = f"{REPLAY_FILE} of {bundle.path}"
    for name, dtype in _REPLAY_DTYPES.items():
        if name not in tensors:
            raise BundleError(f"{where} lacks '{name}'. Build the bundle again, or fetch it again.")
        if tensors[name].dtype != dtype:
            raise BundleError(f"'{name}' in {where} is {tensors[name].dtype}, not {np.dtype(dtype)}. Build it again.")
    count = tensors["labels"].size
    try:
        samples = Samples(
            tensors["latents"],
            tensors["labels"],
            tensors["soft_targets"],
            np.ones(count, np.bool_),
            tensors["held_back"],
            np.full(count, CLOUD, np.uint8),
            np.zeros(count, np.bool_),
        )
        samples.check(bundle.manifest.latent.shape, bundle.manifest.task.slots)
    except InputError as reason:
        raise BundleError(f"{where} does not fit the manifest: {reason} Build the bundle again.") from reason
    return samples
