"""What an exporter says of its work."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

Graphs = Mapping[str, torch.export.ExportedProgram]


@dataclass(frozen=True)
class Report:
    """Versions that made a program, and how much of each signature an accelerator's delegate takes.

    Attributes:
        versions: package -> version.
        delegated: ``<signature>.delegates`` and ``<signature>.outside`` (operators left on the runtime's own
            kernels), where the exporter can know it.
        outside: signature -> names of the operators left outside.
    """

    versions: dict[str, str]
    delegated: dict[str, float] = field(default_factory=dict)
    outside: dict[str, list[str]] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self)))

    @staticmethod
    def read(path: Path) -> Report:
        """The counterpart of :meth:`write`."""
        return Report(**json.loads(path.read_text()))
