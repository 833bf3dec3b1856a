"""A bundle with one kernel changed by 1 %, its digests made right again: what a validation must notice."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema

CHANGE = np.float32(1.01)


def broken_copy(bundle: Path, folder: Path, files: tuple[str, ...]) -> Path:
    """A copy of a bundle folder in which some programs have a changed kernel."""
    copy = folder / bundle.name
    shutil.copytree(bundle, copy)
    kernel = kernels(copy / "program.tflite")[0]
    for name in files:
        data = (copy / name).read_bytes()
        assert kernel in data, f"{name} does not hold the kernel as it is"
        (copy / name).write_bytes(data.replace(kernel, (np.frombuffer(kernel, np.float32) * CHANGE).tobytes()))
    seal(copy)
    return copy


def kernels(program: Path) -> list[bytes]:
    """Constant convolution kernels of a ``.tflite`` file, the bytes of each, the largest first."""
    model = schema.Model.GetRootAs(program.read_bytes(), 0)
    found: set[bytes] = set()
    for graph in (model.Subgraphs(index) for index in range(model.SubgraphsLength())):
        for operator in (graph.Operators(index) for index in range(graph.OperatorsLength())):
            code = model.OperatorCodes(operator.OpcodeIndex()).BuiltinCode()
            if code == schema.BuiltinOperator.CONV_2D:
                buffer = model.Buffers(graph.Tensors(operator.Inputs(1)).Buffer())
                if buffer.DataLength() > 64:
                    found.add(buffer.DataAsNumpy().tobytes())
    return sorted(found, key=lambda kernel: (-len(kernel), kernel))


def seal(bundle: Path) -> None:
    """Writes the digests that the files have now into the manifest, and the manifest's own beside it."""
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_bytes())
    for name, entry in manifest["files"].items():
        data = (bundle / name).read_bytes()
        entry.update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    data = json.dumps(manifest, sort_keys=True).encode()
    path.write_bytes(data)
    (bundle / "manifest.sha256").write_text(hashlib.sha256(data).hexdigest() + "\n")
