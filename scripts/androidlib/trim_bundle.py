"""Writes a bundle anew with one runtime's program: ``trim_bundle.py BUNDLE OUT RUNTIME``.

A learner checks every file that a manifest lists, so that leaving files out takes a manifest that does not list them.
The result is another bundle: its digest differs, no signature is carried over, and a state of the one is none of the
other. The golden trace is left out too: an app does not validate itself.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pocketstep_device.bundle import Bundle
from pocketstep_device.bundle_sources import open_source, read_signature
from pocketstep_device.bundle_writer import write_bundle
from pocketstep_device.errors import InputError, PocketstepError
from pocketstep_device.golden import GOLDEN_FILE


def trim(source: Path, target: Path, runtime: str) -> Bundle:
    """The smaller bundle.

    Raises:
        InputError: the bundle has no program for the runtime.
        BundleError: it is damaged, or can't be written.
    """
    bundle = Bundle.open(source)
    document = json.loads(bundle.manifest.to_json())
    if runtime not in document["runtimes"]:
        raise InputError(f"{source} has no program for {runtime}; build it again with --runtime {runtime}")
    dropped = [entry["file"] for name, entry in document["runtimes"].items() if name != runtime]
    document["runtimes"] = {runtime: document["runtimes"][runtime]}
    gone = {name for name in document.pop("files") if name == GOLDEN_FILE or name.split("/")[0] in dropped}
    return write_bundle(target, document, {n: bundle.read(n) for n in bundle.manifest.files if n not in gone})


def main() -> None:
    """Runs it, with the exit codes of the device's command line."""
    source, target, runtime = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    try:
        bundle = trim(source, target, runtime)
        if read_signature(open_source(source)):
            print("the bundle was signed; what is in the app now is not: pocketstep sign it, where the app pins a key")
    except PocketstepError as reason:
        print(f"scripts/android bundle: {reason}", file=sys.stderr)
        raise SystemExit(2) from reason
    total = sum(entry.bytes for entry in bundle.manifest.files.values())
    for name, entry in bundle.manifest.files.items():
        print(f"{name:24} {entry.bytes:>11,}")
    print(f"{target.name}: {len(bundle.manifest.task.classes)} classes, {total:,} bytes")


if __name__ == "__main__":
    main()
