"""From graphs to program files, one module a runtime; exporters never import one another.

Each has ``export(graphs, target) -> Report``; ``run`` starts them in processes of their own, side by side.
"""

from __future__ import annotations

RUNTIMES = {"litert": "program.tflite", "executorch": "program.pte", "coreml": "program.mlpackage"}
