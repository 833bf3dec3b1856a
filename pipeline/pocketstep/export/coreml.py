"""An ML Program (``.mlpackage``) with one function a program, constants shared; iOS 18 and later."""

from __future__ import annotations

import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from pocketstep.export.report import Graphs, Report


def load_libraries() -> None:
    """Imports what the export needs, ahead of time."""
    sys.modules.setdefault("executorch", None)  # type: ignore[arg-type]  # coremltools would import it for nothing: 9 s
    import coremltools  # noqa: F401


def export(graphs: Graphs, target: Path) -> Report:
    """Converts every graph and merges them; nothing is run, so that any machine can do it."""
    import coremltools
    from coremltools.models.utils import MultiFunctionDescriptor, save_multifunction

    functions = MultiFunctionDescriptor()
    with tempfile.TemporaryDirectory() as folder:
        for name, graph in graphs.items():
            package = coremltools.convert(
                graph.run_decompositions({}),
                minimum_deployment_target=coremltools.target.iOS18,
                compute_precision=coremltools.precision.FLOAT32,
                skip_model_load=True,
            )
            path = str(Path(folder) / f"{name}.mlpackage")
            package.save(path)
            functions.add_function(path, src_function_name="main", target_function_name=name)
        functions.default_function_name = next(iter(graphs))
        save_multifunction(functions, str(target))
    return Report({"coremltools": version("coremltools"), "torch": version("torch")})
