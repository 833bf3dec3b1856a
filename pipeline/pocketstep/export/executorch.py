"""A ``.pte`` file for ExecuTorch with XNNPACK; one method a program, constants shared."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

from pocketstep.export.report import Graphs, Report
from pocketstep.export.xnnpack_layouts import clamps_first, without_transposes
from pocketstep_device.errors import CheckFailedError

HEAVY = ("convolution", "bmm", "mm.default", "linear")  # never on a reference kernel


def load_libraries() -> None:
    """Imports what the export needs, ahead of time."""
    from executorch.backends.xnnpack.partition import xnnpack_partitioner  # noqa: F401


def export(graphs: Graphs, target: Path) -> Report:
    """Lowers every graph into one file.

    Raises:
        CheckFailedError: when a convolution or a product was left to a reference kernel.
    """
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, to_edge_transform_and_lower
    from executorch.exir.passes import MemoryPlanningPass

    for graph in graphs.values():
        clamps_first(graph)
    with without_transposes():
        lowered = to_edge_transform_and_lower(
            dict(graphs),
            partitioner=[XnnpackPartitioner()],
            compile_config=EdgeCompileConfig(_check_ir_validity=False),
        )
    delegated: dict[str, float] = {}
    outside: dict[str, list[str]] = {}
    for name in graphs:
        operators = _operators(lowered.exported_program(name))
        outside[name] = [o for o in operators if "delegate" not in o]
        delegated[f"{name}.delegates"] = len(operators) - len(outside[name])
        delegated[f"{name}.outside"] = len(outside[name])
        heavy = [o for o in outside[name] if any(word in o for word in HEAVY)]
        if heavy:
            raise CheckFailedError(
                f"'{name}' leaves {', '.join(heavy)} to ExecuTorch's reference kernels; cut the "
                "network after them, or leave executorch out of --runtime"
            )
    in_place = MemoryPlanningPass(alloc_graph_input=False)  # inputs are read where the caller has them, not copied
    target.write_bytes(lowered.to_executorch(ExecutorchBackendConfig(memory_planning_pass=in_place)).buffer)
    return Report({"executorch": version("executorch"), "torch": version("torch")}, delegated, outside)


def _operators(program: Any) -> list[str]:
    nodes = [n for n in program.graph.nodes if n.op == "call_function"]
    names = [getattr(n.target, "__name__", str(n.target)) for n in nodes]
    return [name for name in names if name != "getitem"]
