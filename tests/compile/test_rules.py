"""Every rule of the table: gradients against autograd, and programs that stay inside the delegates."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import pytest
import torch
from against_autograd import double_precision
from delegable import outside
from rule_networks import SIDE, networks
from small_networks import SLOTS, relative_error
from torch import Tensor

from pocketstep.compile import training
from pocketstep.compile.graph import aten
from pocketstep.compile.lower import lower
from pocketstep.compile.options import StepOptions
from pocketstep.compile.oracle import Oracle
from pocketstep.compile.rules import RULES, rule_for
from pocketstep.compile.rules.table import SEQUENCE
from pocketstep.compile.signatures import LearningModel, Quantisation, Signature
from pocketstep.compile.trace import trace
from pocketstep.compile.values import is_constant
from pocketstep.compile.walk import Kernels, Walk, initial_state
from pocketstep.plan import make_plan

__all__ = ["double_precision"]

NAMES = ("activations", "arithmetic", "pooling", "shapes", "normalisation", "resampling", "linear")
BATCH = 3
OPTIONS = StepOptions(losses=("labels",))
APPROXIMATE = {"gelu": 1.5e-7, "hardsigmoid": 1e-7, "hardswish": 1e-7}  # the last two: PyTorch's own constants
OTHER_FORMS = {aten.sub.Scalar, aten.mul.Scalar, aten.div.Scalar, aten._unsafe_view.default, aten.alias.default,
               aten.detach.default, SEQUENCE}  # fmt: skip


@dataclass(frozen=True)
class Traced:
    """A network with a branch a rule, cut before the branches."""

    model: LearningModel
    latent: Tensor

    @property
    def step(self) -> Signature:
        return training.step(self.model, BATCH, OPTIONS)

    def values(self) -> dict[str, Tensor]:
        """Without momentum and decay, so that the new momentum is the gradient."""
        state = initial_state(self.model.network, self.model.plan)
        labels = torch.eye(SLOTS)[torch.arange(BATCH) % 3]
        known = {**state, "latents": self.latent, "labels": labels, "momentum": torch.zeros(1)}

        def value(name: str, shape: tuple[int, ...]) -> Tensor:
            zero = name == "weight_decay" or name.startswith("momentum.")
            return known[name] if name in known else torch.full(shape, float(not zero))

        return {spec.name: value(spec.name, spec.shape) for spec in self.step.inputs}


def traced(name: str) -> Traced:
    network = trace(networks()[name].to(torch.get_default_dtype()), (1, SIDE, SIDE))
    missing = [n for n in network.operators if rule_for(n) is None and not is_constant(network, n)]
    assert not missing
    plan = make_plan(network, "centre", SLOTS, "first")
    images = torch.randn(BATCH, SIDE, SIDE, 1, generator=torch.Generator().manual_seed(3))
    latent = Walk(network, plan, Kernels(), {}).prefix(images).detach()
    shape, size = (latent.shape[1], latent.shape[2], latent.shape[3]), (SIDE, SIDE, 1)
    model = LearningModel(network, plan, Quantisation(1.0, 0.0), (0.0,), (1.0,), size, shape, 1, torch.zeros(()))
    return Traced(model, latent)


@cache
def in_single_precision(name: str) -> Traced:
    return traced(name)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_every_branch(name: str) -> None:
    """A branch whose rule is wrong has a wrong gradient at the convolution of its name."""
    here = traced(name)
    values = here.values()
    outputs, expected = here.step.function(values), Oracle(here.model, OPTIONS).step(values)
    assert relative_error(outputs["loss"], expected["loss"].detach()) < 1e-10
    for parameter in here.model.plan.trained:
        gradient = expected[f"momentum.{parameter.trained}"].detach()
        assert gradient.abs().max() > 1e-9, parameter.trained
        branch = (parameter.trained or "").split(".")[1]
        error = relative_error(outputs[f"momentum.{parameter.trained}"], gradient)
        assert error <= APPROXIMATE.get(branch, 1e-9), f"{parameter.trained}: {error:.1e}"


@pytest.mark.parametrize("name", NAMES)
def test_step_stays_inside_the_delegates(name: str) -> None:
    here = in_single_precision(name)
    graph = lower(here.step)
    assert outside(graph) == []
    values = here.values()
    outputs = graph.exported.module()(*[values[spec.name] for spec in here.step.inputs])
    expected = here.step.function(values)
    for spec, output in zip(here.step.outputs, outputs, strict=True):
        assert relative_error(output, expected[spec.name]) < 1e-4, spec.name


def test_every_rule_is_tested() -> None:
    seen = {node.target for name in NAMES for node in in_single_precision(name).model.network.operators}
    assert set(RULES) - seen <= OTHER_FORMS
