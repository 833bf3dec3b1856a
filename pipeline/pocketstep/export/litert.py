"""A ``.tflite`` file, built-in operators only; one signature a program, constants shared."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from pocketstep.export.delegation import HEAVY, delegation, pack_model, read_model
from pocketstep.export.int8_weights import as_int8
from pocketstep.export.products import as_products
from pocketstep.export.report import Graphs, Report
from pocketstep.export.surgery import Editor
from pocketstep_device.errors import CheckFailedError


def load_libraries() -> None:
    """Imports what the export needs, ahead of time."""
    import litert_torch  # noqa: F401


def export(graphs: Graphs, target: Path) -> Report:
    """Converts every graph into one file.

    Raises:
        CheckFailedError: when the file needs an operator outside TensorFlow Lite's built-in set, or XNNPACK leaves a
            convolution or a product to LiteRT's own kernels.
    """
    import litert_torch

    converter = litert_torch.Converter()
    for name, graph in graphs.items():
        converter = converter.signature(name, graph.module(), graph.example_inputs[0])
    converter.convert().export(str(target))
    model = read_model(target.read_bytes())
    editor = Editor(model)
    as_products(editor)
    as_int8(editor)
    editor.drop_unused()
    editor.slim()
    content = pack_model(model)
    target.write_bytes(content)
    foreign = _foreign_operators(target)
    if foreign:
        raise CheckFailedError(
            f"the LiteRT program needs operators that no stock runtime has: {', '.join(sorted(foreign))}; "
            "cut the network after the module that uses them"
        )
    delegated: dict[str, float] = {}
    outside: dict[str, list[str]] = {}
    for name in graphs:
        found = delegation(content, name)
        outside[name] = found.outside
        delegated[f"{name}.delegates"], delegated[f"{name}.outside"] = found.delegates, len(found.outside)
        heavy = sorted(HEAVY & set(found.outside))
        if heavy:
            raise CheckFailedError(f"'{name}' leaves {', '.join(heavy)} to LiteRT's own kernels; XNNPACK takes none")
    versions = {package: version(package) for package in ("litert-torch", "ai-edge-litert")}
    return Report(versions, delegated, outside)


def _foreign_operators(target: Path) -> set[str]:
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(target.read_bytes(), 0)
    codes = [model.OperatorCodes(i) for i in range(model.OperatorCodesLength())]
    return {code.CustomCode().decode() for code in codes if code.CustomCode()}
