from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from against_autograd import double_precision, drawn
from small_networks import assert_close
from torch import Tensor

from pocketstep.compile import joined_features
from pocketstep.compile import operators as op
from pocketstep.compile.oracle_closed_form import random_matrix

__all__ = ["double_precision"]
pytestmark = pytest.mark.usefixtures("double_precision")


def test_unit_and_joined_features() -> None:
    x, latent = drawn(3, 6).detach(), drawn(3, 4, 4, 2, seed=1).detach()
    assert_close(joined_features.unit(x).pow(2).mean(1), torch.ones(3), "mean square of a row", 1e-9)
    origin = drawn(6 + 4 * 2, seed=2).detach()
    joined = joined_features.joined(op.grid_pool(latent, (2, 2)), x, 0, origin)
    pooled = F.adaptive_avg_pool2d(op.to_nchw(latent), 2).permute(0, 2, 3, 1).flatten(1)
    parts = [F.normalize(part, dim=1) * part.shape[1] ** 0.5 for part in (x, pooled)]
    assert_close(joined, torch.cat(parts, 1) - origin, "joined features", 1e-9)
    alone = joined_features.joined(None, x, 0, origin[:6])
    assert_close(alone, parts[0] - origin[:6], "features alone", 1e-9)


def test_wide_features_are_sketched() -> None:
    """VGG's 4,096: unbiased products of rows, up to the noise that 1,024 columns leave."""
    x = drawn(40, 4096).detach().relu()
    sketch = joined_features.sketched(x)
    assert sketch.shape == (40, joined_features.sketched_size(4096)) == (40, 1024)
    wanted, got = x @ x.T, sketch @ sketch.T
    assert float(((got - wanted) / wanted.diagonal().mean()).abs().max()) < 3 / 1024**0.5
    assert abs(float((got - wanted).mean() / wanted.diagonal().mean())) < 1 / 1024**0.5
    assert torch.equal(joined_features.sketched(x[:, :1024]), x[:, :1024])


@pytest.mark.parametrize("width", [1, 1024, 1025, 1280, 2049, 25088])
def test_sketches_take_any_width(width: int) -> None:
    size = joined_features.sketched_size(width)
    assert size <= joined_features.WIDEST
    assert joined_features.sketched(torch.ones(2, width)).shape == (2, size)


@pytest.mark.parametrize(("width", "size"), [(20, 70), (24, 16), (32, 32)])
def test_random_features_are_products_with_one_matrix(width: int, size: int) -> None:
    x = drawn(3, width).detach()
    matrix = random_matrix(width, size).double()
    assert_close(joined_features.expanded(x, size), (x @ matrix).relu(), "random features", 1e-6)
    assert matrix.unique(dim=1).shape[1] == size  # no column twice


def test_random_features_tell_apart_what_no_line_does() -> None:
    """Exclusive or: least squares on the coordinates fails, on ACIL's expansion it does not."""
    x = drawn(400, 2, seed=4).detach()
    target = (x[:, :1] * x[:, 1:]).sign()

    def fitted(features: Tensor) -> float:
        features = torch.cat([features, torch.ones(len(x), 1)], 1)
        answer = features @ torch.linalg.lstsq(features, target).solution
        return float((answer.sign() == target).double().mean())

    wide = torch.cat([x, torch.ones(len(x), 62)], 1)
    assert fitted(x) < 0.65
    assert fitted(joined_features.expanded(wide, 256)) > 0.9
