"""What a bundle brings along: the state before anything was learned, and the cloud's replay samples."""

from __future__ import annotations

import numpy as np

from pocketstep_device.bundle import Bundle
from pocketstep_device.errors import BundleError
from pocketstep_device.samples import CLOUD, Samples
from pocketstep_device.state import Snapshot

STATE_FILE = "state.safetensors"
REPLAY_FILE = "replay.safetensors"


def initial_snapshot(bundle: Bundle) -> Snapshot:
    """Version 0: the state as it left the cloud, nothing observed."""
    tensors, _ = bundle.tensors(STATE_FILE)
    flags = Samples.empty(bundle.manifest.latent.shape, bundle.manifest.task.slots).flags()
    info = {"classes": list(bundle.manifest.task.classes), "chunks": [], "updates": 0}
    return Snapshot(0, {**tensors, **flags}, info)


def cloud_samples(bundle: Bundle) -> Samples:
    """The replay set, each sample with the teacher's cached logits.

    Raises:
        BundleError: the file lacks a tensor.
        InputError: shapes do not fit the bundle.
    """
    tensors, _ = bundle.tensors(REPLAY_FILE)
    try:
        count = len(tensors["latents"])
        samples = Samples(
            tensors["latents"],
            tensors["labels"].astype(np.int64),
            tensors["soft_targets"].astype(np.float32),
            np.ones(count, np.bool_),
            tensors["held_back"].astype(np.bool_),
            np.full(count, CLOUD, np.uint8),
            np.zeros(count, np.bool_),
        )
    except KeyError as missing:
        raise BundleError(f"{REPLAY_FILE} lacks {missing}; build the bundle again") from None
    samples.check(bundle.manifest.latent.shape, bundle.manifest.task.slots)
    return samples
