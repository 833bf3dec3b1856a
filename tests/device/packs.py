"""Target packs of two images, good and malformed, for bundles whose latents are (2, 2, 3)."""

from __future__ import annotations

from typing import Any

import numpy as np

from pocketstep_device.tensors import write_tensors

FORMAT = "pocketstep target pack 1"


def good(digest: str, **changes: Any) -> bytes:
    """A pack of two classes for the bundle of a digest; ``changes`` replace tensors (None: left out) and metadata."""
    logits = np.eye(2, dtype=np.float32)
    tensors: dict[str, Any] = {"latents": np.ones((2, 2, 2, 3), np.int8), "logits": logits}
    facts = {"format": FORMAT, "bundle": digest, "classes": "dark\nbright"}
    for name, value in changes.items():
        (facts if isinstance(value, str) else tensors)[name] = value
    return write_tensors({name: value for name, value in tensors.items() if value is not None}, facts)


def malformed(digest: str) -> dict[str, bytes]:
    """Each wrong in one way."""
    whole, one = good(digest), np.ones((1, 2), np.float32)
    return {
        "empty": b"",
        "cut": whole[:-1],
        "header alone": whole[:40],
        "no tensors": b"\xff" * 100,
        "another format": good(digest, format="another"),
        "another bundle": good("0" * 64),
        "fewer names": good(digest, classes="dark"),
        "a name twice": good(digest, classes="dark\ndark"),
        "an empty name": good(digest, classes="dark\n"),
        "a control character": good(digest, classes="dark\n\x07"),
        "no latents": good(digest, latents=None),
        "no logits": good(digest, logits=None),
        "more": good(digest, more=one),
        "other latents": good(digest, latents=np.ones((2, 3, 3, 3), np.int8)),
        "float latents": good(digest, latents=np.ones((2, 2, 2, 3), np.float32)),
        "flat latents": good(digest, latents=np.ones((2, 12), np.int8)),
        "no images": good(digest, latents=np.ones((0, 2, 2, 3), np.int8), logits=one[:0]),
        "fewer logits": good(digest, logits=one),
        "double logits": good(digest, logits=np.eye(2)),
        "fewer features": good(digest, feature_targets=one),
        "flat features": good(digest, feature_targets=one[0]),
    }
