"""The compiler's operators, forward and backward, in both runtimes, against PyTorch's autograd; all of it delegated."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import numpy as np
import pytest
import torch
from operator_cases import CASES, inputs, signature, there_and_back
from small_networks import CLASSES, SLOTS, Head, conv, learning_model, randomised, relative_error
from torch import Tensor, nn

from pocketstep.compile import training
from pocketstep.compile.lower import Graph, lower
from pocketstep.compile.options import StepOptions
from pocketstep.compile.oracle import Oracle
from pocketstep.compile.walk import initial_state
from pocketstep.export import RUNTIMES
from pocketstep.export.report import Report
from pocketstep.export.run import Exporters
from pocketstep_device.runtimes.executorch import ExecuTorchProgram
from pocketstep_device.runtimes.litert import LiteRtProgram

LIMIT = 1e-3
BATCH = 4
PROGRAMS: dict[str, list[str]] = {
    "activations": [
        "relu", "relu6", "hardtanh", "clamp", "leaky relu", "prelu", "hard sigmoid", "hard swish", "sigmoid", "tanh",
        "silu", "gelu", "gelu tanh", "selu", "softplus", "mish", "softmax", "absolute", "exponential", "logarithm",
    ],
    "arithmetic": [
        "power -0.5", "power 1.5", "power 0.3", "add", "subtract", "multiply", "multiply by a spatial gate", "divide",
        "larger", "sum", "sum apart", "repeat few", "layer norm", "group norm", "batch product",
    ],
    "pooling": ["max pool ceil", "largest pixel", "largest channel", "average pool", "average pool 3",
                "average pool inside", "pool", "resample"],
    "shapes": ["concatenate", "split", "split unused", "slice", "strided slice", "pad", "crop", "window"],
}  # fmt: skip


class Gated(nn.Module):
    """Squeeze and excitation (Hu et al. 2018), with a hard sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.excite(torch.relu(self.squeeze(x.mean((2, 3), keepdim=True))))
        return x * nn.functional.hardsigmoid(gate)


@dataclass(frozen=True)
class Exported:
    """Programs on disk, what goes in, and what PyTorch's autograd gives."""

    folder: Path
    reports: dict[str, Report]
    given: dict[str, list[Tensor]]
    outputs: dict[str, list[str]]
    expected: dict[str, dict[str, Tensor]]
    signed_by: str | None = None

    @property
    def manifest(self) -> SimpleNamespace:
        """As a bundle's, as far as runtimes look at it."""
        inputs = {
            name: [SimpleNamespace(shape=v.shape, dtype="float32") for v in vs] for name, vs in self.given.items()
        }
        return SimpleNamespace(signatures={name: SimpleNamespace(inputs=specs) for name, specs in inputs.items()})

    def file_path(self, name: str) -> Path:
        """As a bundle's."""
        return self.folder / name

    def copy(self, name: str, target: IO[bytes]) -> None:
        """As a bundle's."""
        target.write((self.folder / name).read_bytes())


def network_step() -> tuple[Graph, list[Tensor], dict[str, Tensor]]:
    """The step of a network with pooling, a gate and a shuffle behind the cut."""
    torch.manual_seed(0)
    body = (conv(1), nn.ReLU(), conv(), nn.Hardswish(), nn.MaxPool2d(2), conv(groups=4), Gated(), nn.ChannelShuffle(2))
    model, options = learning_model(randomised(Head(*body)), "centre", "body.1"), StepOptions(losses=("labels",))
    step, generator = training.step(model, BATCH, options), torch.Generator().manual_seed(1)
    noise = torch.randn(BATCH, *model.latent_shape, generator=generator)
    known = {**initial_state(model.network, model.plan), "latents": (noise * 60).clamp(-128, 127)}
    known["labels"] = torch.eye(SLOTS)[torch.arange(BATCH) % CLASSES]
    values = {s.name: known.get(s.name, torch.ones(s.shape)) for s in step.inputs}
    expected = {name: value.detach() for name, value in Oracle(model, options).step(values).items()}
    return lower(replace(step, name="network")), [values[s.name] for s in step.inputs], expected


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("operators")
    graphs, given, expected = [], {}, {}
    with Exporters(["litert", "executorch"]) as exporters:
        for program, names in PROGRAMS.items():
            graphs.append(lower(signature(program, names)))
            given[program] = [value for name in names for value in inputs(name)]
            results = [(name, there_and_back(CASES[name].theirs, inputs(name))) for name in names]
            expected[program] = {f"{n}.out.{i}": value for n, values in results for i, value in enumerate(values)}
        step, given["network"], expected["network"] = network_step()
        exporters.begin([*graphs, step], folder)
        reports = exporters.finish()
    outputs = {g.signature.name: [o.name for o in g.signature.outputs] for g in (*graphs, step)}
    return Exported(folder, reports, given, outputs, expected)


@pytest.mark.parametrize("runtime", ["litert", "executorch"])
def test_values_and_gradients(exported: Exported, runtime: str) -> None:
    kind: Any = {"litert": LiteRtProgram, "executorch": ExecuTorchProgram}[runtime]
    program = kind(exported, RUNTIMES[runtime], 1)
    for name, given in exported.given.items():
        values = program.call(name, [np.ascontiguousarray(value.numpy()) for value in given])
        results = dict(zip(exported.outputs[name], values, strict=True))
        errors = {n: relative_error(torch.from_numpy(results[n]), e) for n, e in exported.expected[name].items()}
        worst = max(errors, key=lambda n: errors[n])
        print(f"{runtime}, {name}: largest relative error {errors[worst]:.1e} ({worst})")
        assert errors[worst] <= LIMIT, worst


@pytest.mark.parametrize("runtime", ["litert", "executorch"])
def test_nothing_outside_the_delegate(exported: Exported, runtime: str) -> None:
    report = exported.reports[runtime]
    assert {name: outside for name, outside in report.outside.items() if outside} == {}
    assert {report.delegated[f"{name}.outside"] for name in exported.given} == {0}
