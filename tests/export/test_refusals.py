"""What no delegate takes, and what a runtime has no operator for, ends an export with a reason."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pocketstep.compile.lower import Graph
from pocketstep.compile.signatures import Signature
from pocketstep.export.run import Exporters, explained
from pocketstep_device.errors import CheckFailedError


class TwoInputs(nn.Module):
    """A convolution whose kernel is an input."""

    def forward(self, x: Tensor, kernel: Tensor) -> Tensor:
        """(1, 2, 6, 6) with (3, 2, 3, 3)."""
        return F.conv2d(x * 2.0, kernel) + 1.0


class Whitened(nn.Module):
    """As somebody's frozen prefix may be."""

    def forward(self, x: Tensor) -> Tensor:
        """(1, 2, 6, 6), every map inverted as a matrix."""
        return torch.linalg.inv(x * 2.0)


def why_not(
    runtime: str, net: nn.Module, shapes: list[tuple[int, ...]], folder: Path, modules: Mapping[str, str]
) -> str:
    """What the export to a runtime ends with."""
    exported = torch.export.export(net, tuple(torch.zeros(shape) for shape in shapes))
    graph = Graph(Signature("net", 1, (), (), lambda values: dict(values)), exported)
    with Exporters([runtime]) as exporters:
        exporters.begin([graph], folder, modules)
        with pytest.raises(CheckFailedError) as error:
            exporters.finish()
    return str(error.value)


@pytest.mark.parametrize(
    ("runtime", "words"),
    [
        ("executorch", "'net' leaves aten.convolution.default to ExecuTorch's reference kernels"),
        ("litert", "'net' leaves CONV_2D to LiteRT's own kernels"),
    ],
)
def test_a_convolution_outside_the_delegate(runtime: str, words: str, tmp_path: Path) -> None:
    assert words in why_not(runtime, TwoInputs(), [(1, 2, 6, 6), (3, 2, 3, 3)], tmp_path, {})


def test_an_operator_that_a_runtime_has_not(tmp_path: Path) -> None:
    modules = {"aten.linalg_inv_ex.default": "stem.whiten"}
    found = why_not("executorch", Whitened(), [(1, 2, 6, 6)], tmp_path, modules)
    assert "executorch" in found
    assert "aten.linalg_inv_ex.default (module 'stem.whiten')" in found
    assert "--runtime" in found


def test_a_converters_words_are_explained_as_far_as_they_can_be() -> None:
    modules = {"aten.fft.default": "stem.waves", "aten.inverse.default": "stem.whiten"}
    known = explained("litert", "KeyError: 'aten::inverse'", modules)
    assert known.startswith("litert has no operator for aten.inverse.default, which module 'stem.whiten' uses")
    guessed = explained("litert", "KeyError: 'x'\nmore", modules)
    assert guessed.startswith("KeyError: 'x'; litert may have no operator for one of these")
    assert "aten.fft.default (module 'stem.waves'), aten.inverse.default (module 'stem.whiten')" in guessed
    assert explained("litert", "KeyError: 'x'\nmore", {}).startswith("KeyError: 'x'; leave this runtime out")
