"""A ``.tflite`` file, built-in operators only; one signature a program, constants shared."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from pocketstep.export.report import Graphs, Report
from pocketstep_device.errors import CheckFailedError


def load_libraries() -> None:
    """Imports what the export needs, ahead of time."""
    import litert_torch  # noqa: F401


def export(graphs: Graphs, target: Path) -> Report:
    """Converts every graph into one file.

    Raises:
        CheckFailedError: when the file needs an operator outside TensorFlow Lite's built-in set.
    """
    import litert_torch

    converter = litert_torch.Converter()
    for name, graph in graphs.items():
        converter = converter.signature(name, graph.module(), graph.example_inputs[0])
    converter.convert().export(str(target))
    foreign = _foreign_operators(target)
    if foreign:
        raise CheckFailedError(
            f"the LiteRT program needs operators that no stock runtime has: {', '.join(sorted(foreign))}; "
            "cut the network after the module that uses them"
        )
    return Report({package: version(package) for package in ("litert-torch", "ai-edge-litert")})


def _foreign_operators(target: Path) -> set[str]:
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(target.read_bytes(), 0)
    codes = [model.OperatorCodes(i) for i in range(model.OperatorCodesLength())]
    return {code.CustomCode().decode() for code in codes if code.CustomCode()}
