"""Each loss and its gradient against ``torch.nn.functional``, in double precision; then as part of a step."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from against_autograd import FEW, double_precision
from compiled_step import EVERYTHING, LIMIT, WEIGHTS, Compiled
from hypothesis import given
from hypothesis import strategies as st
from small_networks import Head, assert_close, conv
from torch import Tensor, nn
from torch.autograd import gradcheck

from pocketstep.compile import losses
from pocketstep.compile.options import LOSSES, OUTPUTS, StepOptions
from pocketstep.compile.options import WEIGHTS as RATES
from pocketstep_device.errors import InputError

EXACT = 1e-9
__all__ = ["double_precision"]
pytestmark = pytest.mark.usefixtures("double_precision")
COUNT = st.integers(1, 6)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def mean(each: Tensor, weights: Tensor) -> Tensor:
    return (each * weights).sum().reshape(1) / weights.sum().clamp(min=1e-6)


def assert_same(ours: Tensor, expected: Tensor, leaf: Tensor) -> None:
    """Both values, and their gradients to the leaf, which may all be zero."""
    torch.testing.assert_close(ours, expected, rtol=EXACT, atol=1e-12)
    gradients = [torch.autograd.grad(value.sum(), leaf)[0] for value in (ours, expected)]
    torch.testing.assert_close(*gradients, rtol=EXACT, atol=1e-12)


@st.composite
def weights_of(choose: st.DrawFn, size: int) -> Tensor:
    """Whole, half and no samples; at times only padding."""
    return torch.tensor(choose(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=size, max_size=size)))


@FEW
@given(st.data(), COUNT, COUNT, st.integers(0, 99), st.sampled_from([0.0, 1e-4, 1.0, 30.0]))
def test_logit_distance(data: st.DataObject, size: int, slots: int, seed: int, apart: float) -> None:
    """Also where logits and targets agree, as in the first step from the device's own targets."""
    logits, weights = drawn(size, slots, seed=seed), data.draw(weights_of(size))
    targets = (logits + apart * drawn(size, slots, seed=seed + 1)).detach()
    mask = torch.tensor(data.draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=slots, max_size=slots)))
    ours = losses.LogitDistance.apply(logits, targets, mask, weights)
    squares = (logits - targets).square()[:, mask > 0].sum(1)
    assert_same(ours, mean((squares + losses.NEAR**2).sqrt(), weights), logits)


def test_logit_distance_is_the_papers_root_of_squares() -> None:
    logits, targets = torch.tensor([[3.0, 0, 7], [0, 0, 0]]), torch.tensor([[0.0, 4, -9], [5, 12, 1]])
    loss = losses.LogitDistance.apply(logits, targets, torch.tensor([1.0, 1, 0]), torch.ones(2))
    assert loss.item() == pytest.approx((5 + 13) / 2, rel=1e-6)


@FEW
@given(st.data(), COUNT, st.integers(2, 7), st.integers(0, 3), st.integers(0, 99))
def test_feature_distance(data: st.DataObject, size: int, length: int, spare: int, seed: int) -> None:
    features, weights = drawn(size, length, seed=seed), data.draw(weights_of(size))
    targets = 5 * drawn(size, length + spare, seed=seed + 1).detach()
    ours, padded = losses.FeatureDistance.apply(features, targets, weights), F.pad(features, (0, spare))
    expected = mean(2 - 2 * F.cosine_similarity(padded, targets), weights)
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)
    assert_same(ours, mean((unit(padded) - unit(targets)).square().sum(1), weights), features)


def unit(x: Tensor) -> Tensor:
    return x / (x.square().sum(1, keepdim=True) + 1e-12).sqrt()


def test_features_without_a_direction_are_no_trouble() -> None:
    """All units may be silent, and targets that were not stored are zero."""
    features, targets = torch.zeros(2, 3, requires_grad=True), torch.tensor([[0.0, 0, 0], [1, 2, 2]])
    loss = losses.FeatureDistance.apply(features, targets, torch.tensor([0.0, 1]))
    (gradient,) = torch.autograd.grad(loss, features)
    assert loss.item() == pytest.approx(1)
    assert torch.isfinite(gradient).all()
    assert (gradient[0] == 0).all()


def test_numerical_gradients() -> None:
    mask, weights, targets = torch.tensor([1.0, 0, 1]), torch.tensor([1.0, 0.5]), drawn(2, 3, seed=3).detach()
    labels, temperature = F.one_hot(torch.tensor([0, 2]), 3).double(), torch.tensor([2.0])
    functions = {
        "labels": lambda x: losses.CrossEntropy.apply(x, labels, mask, weights),
        "soft": lambda x: losses.Distillation.apply(x, targets, mask, temperature, weights),
        "logits": lambda x: losses.LogitDistance.apply(x, targets, mask, weights),
        "logits that agree": lambda x: losses.LogitDistance.apply(x * 1e-4 + targets, targets, mask, weights),
        "features": lambda x: losses.FeatureDistance.apply(x, targets, weights),
        "padded features": lambda x: losses.FeatureDistance.apply(x, F.pad(targets, (0, 2), value=0.5), weights),
    }
    for name, function in functions.items():
        assert gradcheck(function, [drawn(2, 3)]), name


# As part of a step


@pytest.fixture(scope="module")
def everything() -> Compiled:
    return Compiled("centre", EVERYTHING)


@pytest.mark.parametrize("loss", RATES)
def test_a_loss_that_weighs_nothing_changes_nothing(everything: Compiled, loss: str) -> None:
    """Against the same step compiled without it."""
    values = {**everything.values("step"), RATES[loss]: torch.zeros(1)}
    outputs = everything.step(values)
    kept = tuple(name for name in LOSSES if name != loss)
    size = EVERYTHING.feature_size if "features" in kept else None
    without = StepOptions("adamw", losses=kept, clip=True, projection="matrix", feature_size=size)
    expected = Compiled("centre", without).step(values)
    assert outputs.keys() - expected.keys() == {OUTPUTS[loss]}
    for name, value in expected.items():
        assert_close(outputs[name], value, name, EXACT)


@pytest.mark.parametrize("loss", RATES)
def test_a_loss_that_weighs_something_moves_what_it_reaches(everything: Compiled, loss: str) -> None:
    values = {**everything.values("step"), "clip_norm": torch.tensor([1e9])}  # a clipped norm joins all tensors
    light, heavy = (everything.step({**values, RATES[loss]: torch.tensor([w])}) for w in (0.1, 2.0))
    assert (heavy["loss"] - light["loss"]).item() == pytest.approx(1.9 * light[OUTPUTS[loss]].item(), rel=1e-9)
    moved = {name for name in everything.trained if not torch.equal(light[name], heavy[name])}
    head = {"head.weight", "head.bias"}
    reached = {"features": set(everything.trained) - head, "prototypes": head}
    assert moved == reached.get(loss, set(everything.trained))


def test_padding_rows_change_nothing(everything: Compiled) -> None:
    for name, function in (("step", everything.step), ("score", everything.score)):
        values = everything.values(name)
        other = {key: value.clone() for key, value in values.items()}
        for key in ("latents", "soft_targets", "feature_targets"):
            if key in other:
                other[key][torch.tensor(WEIGHTS) == 0] = 17
        expected, outputs = function(values), function(other)
        assert expected.keys() == outputs.keys()
        for key, value in expected.items():
            assert_close(outputs[key], value, f"{name}: {key}", EXACT)


def test_step_without_any_target_is_finite(everything: Compiled) -> None:
    """What a device feeds that has no targets at all."""
    zero = ("soft_weights", "feature_weights", "prototype_weights", "label_weights", "prototypes", "feature_targets")
    values = {k: torch.zeros_like(v) if k in zero else v for k, v in everything.values("step").items()}
    outputs = everything.step(values)
    assert all(torch.isfinite(value).all() for value in outputs.values())
    assert outputs["loss"] == 0
    assert outputs["gradient_norm"] == 0


def test_student_features_are_padded_to_the_teachers() -> None:
    narrow, wide = (StepOptions(losses=("labels", "features"), feature_size=size) for size in (None, 9))
    compiled = Compiled("centre", narrow)
    values = compiled.values("step")
    size = values["feature_targets"].shape[1]
    padded = {**values, "feature_targets": F.pad(values["feature_targets"], (0, 9 - size))}
    expected, outputs = compiled.step(values), compiled.use(wide).step(padded)
    for name, value in expected.items():
        assert_close(outputs[name], value, name, EXACT)


def test_feature_targets_shorter_than_the_features_are_refused() -> None:
    with pytest.raises(InputError, match="feature_size is 5, but the student's features have 6"):
        Compiled("centre", StepOptions(losses=("labels", "features"), feature_size=5))


def test_prototypes_are_the_class_means_of_what_the_head_sees(everything: Compiled) -> None:
    """Over several batches, from nothing."""
    state, weights = everything.values("score"), torch.tensor(WEIGHTS)
    state.update({name: torch.zeros_like(state[name]) for name in ("prototypes", "prototype_count")})
    features, labels = [], []
    for seed in range(3):
        batch = everything.values("score", seed)
        state.update({name: batch[name] for name in ("latents", "labels")})
        features.append(everything.oracle.forward(state, state)[1])
        labels.append(state["labels"] * weights[:, None])
        state.update(everything.score(state))
    counts = torch.cat(labels).sum(0)
    totals = torch.cat(labels).T @ torch.cat(features)
    assert counts.max() > 1
    assert counts.min() == 0
    assert_close(state["prototype_count"], counts, "samples", EXACT)
    assert_close(state["prototypes"], totals / counts.clamp(min=1e-6)[:, None], "means", EXACT)


@pytest.mark.parametrize("net", [
    Head(conv(1, 4), nn.ReLU(), conv(), nn.ReLU()),
    Head(conv(1, 4), nn.ReLU(), conv(stride=2), nn.ReLU(), conv(4, 6, kernel=5), nn.ReLU(), channels=6),
    Head(conv(1, 4), nn.ReLU(), conv(4, 4, kernel=2, padding=0), nn.ReLU6()),
    Head(conv(1, 4), nn.ReLU(), conv(groups=4), nn.ReLU(), conv(), nn.ReLU()),
])  # fmt: skip
@pytest.mark.parametrize("preset", ["centre", "full"])
def test_covariances_are_of_what_the_taps_see(net: nn.Module, preset: str) -> None:
    """Strides, other sizes, even kernels and depthwise ones, which mix no channels and have none."""
    compiled = Compiled(preset, StepOptions(projection="matrix"), net.double().eval(), "body.1")  # type: ignore[arg-type]
    values = compiled.values("score")
    outputs, expected = compiled.score(values), compiled.oracle.score(values)
    names = [name for name in outputs if name.startswith("covariance.")]
    depthwise = any(isinstance(m, nn.Conv2d) and m.groups > 1 for m in net.modules())
    assert len(names) == len(compiled.trained) - 2 - depthwise
    assert names
    for name in outputs:
        assert_close(outputs[name], expected[name], name, LIMIT)
