"""Whether two learners know the same: one digest of everything that a learner keeps."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from pathlib import Path

from pocketstep_device.errors import StateError
from pocketstep_device.learner import Learner
from pocketstep_device.samples import Samples


def digest(learner: Learner) -> str:
    """Of bundle, version, classes and other facts, trained values and samples."""
    facts = [learner.bundle.digest, learner._version, learner._info]
    result = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name in sorted(learner._values):
        result.update(learner._values[name].tobytes())
    for field in fields(Samples):
        result.update(getattr(learner._samples, field.name).tobytes())
    return result.hexdigest()


def digest_on_disk(folder: Path, *bundles: Path, store_mb: float = 64.0) -> str:
    """What a new process would find, with the first of these bundles that the state belongs to; without a note."""
    for bundle in bundles:
        try:
            with Learner.open(bundle, folder, store_mb=store_mb) as learner:
                assert learner.notes == []
                return digest(learner)
        except StateError as reason:
            if "belongs to another bundle" not in str(reason):
                raise
    raise AssertionError("the state is of none of these bundles")
