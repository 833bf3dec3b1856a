"""Adding an operator: a function with a backward of inference operators, and a rule that enters it into the table.

``log1p`` has no rule. With the ten lines here, in a module of your own that is imported before ``pocketstep export``,
networks that use it can be trained behind the cut. `tests/compile/test_rules.py` says what else a rule is checked for.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compiled_step import Compiled
from small_networks import CLASSES, assert_close, conv
from torch import Tensor, fx, nn

from pocketstep.compile.graph import aten
from pocketstep.compile.layouts import Laid
from pocketstep.compile.rules import RULES
from pocketstep.compile.rules.table import rule
from pocketstep.compile.walk import Walk


class LogOnePlus(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.log(x + 1.0)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        result: Tensor = g / (x + 1.0)
        return result


def log_one_plus(walk: Walk, node: fx.Node) -> Laid:
    x = walk.laid(node.all_input_nodes[0])
    return Laid(LogOnePlus.apply(x.tensor), x.order)


class WithLogOnePlus(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = conv(1, 4), conv(4, 4), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.log1p(self.body(self.stem(x).relu()).relu()).mean((2, 3)))
        return logits


def test_a_step_through_it_agrees_with_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES, aten.log1p.default, None)  # taken out again after this test
    rule(aten.log1p.default)(log_one_plus)
    compiled = Compiled("full", net=WithLogOnePlus(), cut="stem")
    values = compiled.values("step")
    found, expected = compiled.step(values), compiled.oracle.step(values)
    for name in compiled.trained:
        assert_close(found[name], expected[name], name, 1e-4)
