"""Bundles made of another one: other facts in the manifest, fewer programs and files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pocketstep_device.bundle_writer import write_bundle
from pocketstep_device.errors import BundleError
from pocketstep_device.tensors import read_tensors, write_tensors

FOR_ANDROID = ("litert", "executorch")


def write_variant(
    bundle: Path,
    target: Path,
    golden: bool = False,
    classes: Sequence[str] | None = None,
    bare: bool = False,
    **facts: Any,
) -> Path:
    """The bundle without programs of other systems, with other classes and other facts of its manifest.

    With ``bare`` it keeps no image.
    """
    manifest = json.loads((bundle / "manifest.json").read_text())
    runtimes = {name: entry for name, entry in manifest["runtimes"].items() if name in FOR_ANDROID}
    wanted = {entry["file"] for entry in runtimes.values()} | {"state.safetensors", "replay.safetensors"}
    wanted |= {"golden.safetensors"} if golden else set()
    files: dict[str, Path | bytes] = {name: bundle / name for name in manifest.pop("files") if name in wanted}
    if bare:
        content = read_tensors((bundle / "replay.safetensors").read_bytes(), "replay", error=BundleError)[0]
        files["replay.safetensors"] = write_tensors({name: value[:0] for name, value in content.items()})
    task = {**manifest["task"], **({"classes": list(classes)} if classes else {})}
    target.parent.mkdir(parents=True, exist_ok=True)
    write_bundle(target, {**manifest, "runtimes": runtimes, "task": task, **facts}, files)
    return target
