"""Our NHWC graphs in ExecuTorch's lowering: no transposes; values are compared in test_operators_on_runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pocketstep.export import executorch


class Net(nn.Module):
    """Two convolutions and a pooling in NHWC, as signatures are traced; the last permutation is an output."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, H, W, 4) to maps (B, H, W, 8), (B, H/2, W/2, 8), and a map in NCHW."""
        first = (self.first((x * 2.0).permute(0, 3, 1, 2))).permute(0, 2, 3, 1).clamp(0.0, 6.0)
        second = torch.relu(self.second((first + 1.0).permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        pooled = nn.functional.max_pool2d((second * first).permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
        return second + first, pooled * 0.5, second.permute(0, 3, 1, 2)


def test_transposes_are_tags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from executorch.backends.xnnpack import xnnpack_preprocess

    written: list[Any] = []
    serialize = xnnpack_preprocess.serialize_xnnpack_binary
    monkeypatch.setattr(
        xnnpack_preprocess,
        "serialize_xnnpack_binary",
        lambda graph, data: written.append(graph) or serialize(graph, data),
    )
    net, x = Net(), torch.randn(2, 6, 6, 4, generator=torch.Generator().manual_seed(0))
    graph = torch.export.export(net, (x,)).run_decompositions({})
    report = executorch.export({"net": graph}, tmp_path / "net.pte")
    assert report.outside == {"net": []}
    kinds = [type(node.xnode_union).__name__ for graph in written for node in graph.xnodes]
    assert kinds.count("XNNConv2d") == 2
    assert kinds.count("XNNStaticTranspose") == 1  # the output in NCHW, which is none of ours
