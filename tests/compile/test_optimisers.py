"""The step's optimisers, clipping, masks and projection against ``torch.optim``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import torch
from compiled_step import CUTS, EVERYTHING, LIMIT, OPTIONS, Compiled
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import Head, assert_close, conv, relative_error
from torch import Tensor, nn

from pocketstep.compile import oracle_optimisers, projection, training
from pocketstep.compile.lower import lower
from pocketstep.compile.options import LOSSES, OPTIMISERS, PROJECTIONS, StepOptions
from pocketstep.compile.oracle_losses import losses
from pocketstep_device.errors import InputError

EXACT = 1e-7


@contextmanager
def precision(dtype: torch.dtype) -> Iterator[None]:
    """The type of new tensors, the compiler's constants among them."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@cache
def compiled(preset: Any, dtype: torch.dtype) -> Compiled:
    with precision(dtype):
        return Compiled(preset)


@st.composite
def options(choose: st.DrawFn) -> StepOptions:
    optimiser = choose(st.sampled_from(OPTIMISERS))
    chosen = tuple(loss for loss in LOSSES if loss == "labels" or choose(st.booleans()))
    return StepOptions(
        optimiser,
        nesterov=optimiser == "sgd" and choose(st.booleans()),
        losses=chosen,
        clip=choose(st.booleans()),
        projection=choose(st.sampled_from(PROJECTIONS)),
        feature_size=choose(st.sampled_from([None, 6, 9])) if "features" in chosen else None,
    )


RATES = {
    "learning_rate": st.floats(1e-4, 1),
    "momentum": st.sampled_from([0.0, 0.5, 0.9]),
    "weight_decay": st.sampled_from([0.0, 0.1]),
    "clip_norm": st.sampled_from([1e-3, 1.0, 1e3]),
    "factor.body": st.sampled_from([0.0, 1.0, 10.0]),
}


@settings(deadline=None, max_examples=60)
@given(st.data(), options(), st.sampled_from(["centre", "full"]), st.integers(0, 999))
def test_any_step_agrees_with_torch(data: st.DataObject, chosen: StepOptions, preset: str, seed: int) -> None:
    """In double precision, where a wrong formula is no rounding error: state, options and rates at random."""
    with precision(torch.float64):
        case = compiled(preset, torch.float64).use(chosen)
        values = case.values("step", seed)
        for name, rate in RATES.items():
            if name in values:
                values[name] = torch.tensor([data.draw(rate, name)])
        outputs, expected = case.step(values), case.oracle.step(values)
        assert [o.name for o in case.signatures["step"].outputs] == list(outputs)
        assert outputs.keys() == expected.keys()
        for name, value in outputs.items():
            assert_close(value, expected[name].detach(), name, EXACT)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("preset", CUTS)
def test_step_and_score_agree_with_torch(preset: str, name: str) -> None:
    """In single precision, as on a device."""
    case = compiled(preset, torch.float32).use(OPTIONS[name])
    for signature in ("step", "score"):
        for seed in range(2):
            values = case.values(signature, seed)
            outputs = case.signatures[signature].function(values)
            expected = case.oracle.signatures[signature](values)
            for spec in case.signatures[signature].outputs:
                assert outputs[spec.name].shape == spec.shape
                assert_close(outputs[spec.name], expected[spec.name].detach(), f"{signature}.{spec.name}", LIMIT)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, LIMIT), (torch.float64, EXACT)])
@pytest.mark.parametrize("name", OPTIONS)
def test_ten_steps_are_ten_of_one_optimiser(name: str, dtype: torch.dtype, limit: float) -> None:
    """One ``torch.optim`` object that lives through all ten, on the network's own graph, against state in and out.

    Rates fall, and half of the weights are frozen for the three steps in the middle.
    """
    with precision(dtype):
        case = compiled("centre", dtype).use(OPTIONS[name])
        state = case.start()
        state.update({k: v for k, v in case.values("step").items() if k.startswith("projection.")})
        masks = {k: v for k, v in case.values("step").items() if k.startswith("mask.")}
        leaves = {name: state[name].clone().requires_grad_() for name in case.trained}
        optimiser = oracle_optimisers.make(case.options, state, leaves, case.oracle.groups)
        rates = [group["lr"] for group in optimiser.param_groups]
        for step in range(10):
            state.update(case.batch(step))
            state.update({k: v if 4 <= step < 7 else torch.ones_like(v) for k, v in masks.items()})
            state["learning_rate"] = torch.tensor([0.05 * (1 - step / 10)])
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * (1 - step / 10)
            torch_step(case, optimiser, state, leaves)
            state.update(case.step(state))
            for key, leaf in leaves.items():
                assert_close(state[key], leaf.detach(), f"{key} after step {step + 1}", limit)
            for key, value in oracle_optimisers.read_state(optimiser, state, leaves).items():
                assert_close(state[key], value, f"{key} after step {step + 1}", limit)


def torch_step(
    case: Compiled, optimiser: torch.optim.Optimizer, v: dict[str, Tensor], leaves: dict[str, Tensor]
) -> None:
    """As it is written by hand in PyTorch."""
    logits, features, _ = case.oracle.forward(v, leaves)
    optimiser.zero_grad()
    losses(v, case.options, logits, features, leaves)["loss"].sum().backward()
    if case.options.clip:
        oracle_optimisers.clip(v, leaves)
    before = {**v, **{name: leaf.detach().clone() for name, leaf in leaves.items()}}
    optimiser.step()
    with torch.no_grad():
        for name, value in oracle_optimisers.restrict(before, leaves).items():
            leaves[name].copy_(value)


@pytest.mark.parametrize("name", OPTIONS)
def test_masks_freeze_weights_and_not_their_moments(name: str) -> None:
    case = compiled("centre", torch.float32).use(OPTIONS[name])
    values = case.values("step")
    outputs = case.step(values)
    moments = [s.name for s in case.signatures["step"].outputs if s.name.endswith("head.weight")][1:]
    assert len(moments) == (1 if case.options.optimiser == "sgd" else 2)
    assert min(values[f"mask.{trained}"].min() for trained in case.trained) == 0
    for trained in case.trained:
        free = values[f"mask.{trained}"] > 0
        moved = outputs[trained] != values[trained]
        assert not moved[~free].any(), trained
        assert moved[free].float().mean() > 0.5, trained
        for moment in moments:
            key = moment.removesuffix("head.weight") + trained
            assert free.all() or (outputs[key] != values[key])[~free].any(), key


def test_clipping_bounds_the_gradients_and_leaves_small_ones() -> None:
    case = compiled("centre", torch.float32).use(StepOptions(clip=True))
    plain = compiled("last", torch.float32).use(StepOptions())  # any other: only to see that it has no norm
    assert "gradient_norm" not in [o.name for o in plain.signatures["step"].outputs]
    values = {**case.start(), "weight_decay": torch.zeros(1)}
    loose = case.step({**values, "clip_norm": torch.tensor([1e6])})
    norm = loose["gradient_norm"]
    for factor in (0.5, 0.999, 1.001, 7.0):
        outputs = case.step({**values, "clip_norm": norm * factor})
        moments = torch.cat([outputs[f"momentum.{name}"].flatten() for name in case.trained])
        assert_close(outputs["gradient_norm"], norm, "the norm is the one before clipping", 1e-6)
        assert moments.norm().item() == pytest.approx(norm.item() * min(1, factor), rel=1e-5)


def test_the_norm_is_that_of_free_weights() -> None:
    case = compiled("centre", torch.float32).use(StepOptions(clip=True))
    values = case.start()
    values.update({f"mask.{name}": torch.zeros_like(values[name]) for name in case.trained if name != "head.bias"})
    gradients, _ = case.oracle.gradients(values, case.options)
    assert_close(case.step(values)["gradient_norm"], gradients["head.bias"].norm().reshape(1), "norm", 1e-5)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_an_identity_projects_nothing(optimiser: Any) -> None:
    with precision(torch.float64):
        case = compiled("full", torch.float64).use(StepOptions(optimiser, projection="matrix"))
        values = {**case.values("step"), **projections(training.initial_state(case.model, case.options))}
        assert len(projections(values)) == len(case.trained) - 2
        outputs = case.step(values)
        expected = case.use(StepOptions(optimiser)).step(values)
        assert outputs.keys() == expected.keys()
        for name, value in expected.items():
            assert_close(outputs[name], value, name, 1e-14)


def projections(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in values.items() if name.startswith("projection.")}


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("preset", ["centre", "full"])
def test_a_null_space_projection_protects_what_was_seen(preset: Any, optimiser: Any) -> None:
    """From ``score``'s covariances of samples in a subspace, which then keep their maps through ten steps.

    With decay, which must not move them either; the head is frozen so that logits show it.
    """
    net = Head(conv(1, 8), nn.ReLU(), conv(8, 8), nn.ReLU(), channels=8).eval()
    case = Compiled(preset, StepOptions(optimiser, projection="matrix"), net, "body.1")
    generator = torch.Generator().manual_seed(3)
    state, quantisation = case.start(), case.model.quantisation
    shape = state["latents"].shape
    flat = torch.randn(*shape[:3], 2, generator=generator) @ torch.randn(2, 8, generator=generator)
    protected = {**state, "latents": (flat - quantisation.offset) / quantisation.scale}
    zeros = {s.name: torch.zeros(s.shape) for s in case.signatures["score"].inputs if s.source == "statistics"}
    sums = case.score({**protected, **zeros, "label_weights": torch.ones(len(flat))})
    for name in projections(state):
        covariance = sums[name.replace("projection", "covariance")].double()
        eigenvalues, vectors = torch.linalg.eigh(covariance)
        kept = vectors[:, eigenvalues < 1e-5 * eigenvalues.max()]
        assert 0 < kept.shape[1] < len(covariance)
        state[name] = (kept @ kept.T).float()
    for name in ("head.weight", "head.bias"):
        state[f"mask.{name}"] = torch.zeros_like(state[name])
    before, elsewhere = case.oracle.forward(protected, state)[0], case.oracle.forward(state, state)[0]
    first = {name: state[name].clone() for name in case.trained}
    for seed in range(10):
        state.update(case.batch(seed))
        state.update(case.step(state))
    state["latents"] = case.values("step")["latents"]
    assert any(relative_error(state[name], first[name]) > 0.01 for name in case.trained)
    assert relative_error(case.oracle.forward(state, state)[0], elsewhere) > 0.01
    assert_close(case.oracle.forward(protected, state)[0], before, "logits of protected samples", 1e-4)


@pytest.mark.parametrize("name", ["nesterov", "adam", "everything"])
def test_lowered_step_is_inference_only_and_gives_the_same(name: str) -> None:
    case = compiled("centre", torch.float32).use(OPTIONS[name])
    for signature in ("step", "score"):
        made, values = case.signatures[signature], case.values(signature, 5)
        graph = lower(made).exported
        targets = {str(n.target) for n in graph.graph.nodes if n.op == "call_function"}
        slow = ("sum", "expand", "where", "select", "log_softmax", "reciprocal", "squeeze", "backward", "gt", "lt")
        assert not [t for t in targets if t.split(".")[1] in slow]
        pads = [n.args[1] for n in graph.graph.nodes if "constant_pad_nd" in str(n.target)]
        assert all(min(pad) >= 0 for pad in pads)  # what autograd makes of a padding; no runtime crops with it
        expected = made.function(values)
        for spec, value in zip(made.outputs, graph.module()(*[values[s.name] for s in made.inputs]), strict=True):
            assert_close(value, expected[spec.name], f"lowered {spec.name}", 1e-5)


def test_state_to_begin_with() -> None:
    case = compiled("centre", torch.float32).use(EVERYTHING)
    state, kinds = (make(case.model, EVERYTHING) for make in (training.initial_state, training.state_kinds))
    assert state.keys() == kinds.keys()
    made = (*(case.signatures[name] for name in ("step", "score")), projection.project(case.model, EVERYTHING))
    needed = {spec.name for signature in made for spec in signature.inputs if spec.source == "state"}
    assert needed - state.keys() == {*case.trained, "class_mask"}
    assert state.keys() <= needed
    assert state["beta1_power"] == state["beta2_power"] == 1
    assert set(kinds.values()) == {"optimiser", "control", "statistics"}


def test_hyper_parameters_are_the_inputs() -> None:
    for chosen in OPTIONS.values():
        case = compiled("centre", torch.float32).use(chosen)
        inputs = [s.name for s in case.signatures["step"].inputs if s.source == "hyper"]
        ranges = chosen.hyper(case.oracle.groups.values())
        assert inputs == list(ranges)
        assert all(low <= default <= high for default, low, high, _ in ranges.values())


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"optimiser": "adamax"}, "unknown optimiser 'adamax'; did you mean 'adam'"),
    ({"losses": ("labels", "hinge")}, "unknown loss 'hinge'; choose one of labels, soft"),
    ({"losses": ("labels", "soft", "soft")}, "listed twice"),
    ({"losses": ("soft",)}, "give label weights of 0"),
    ({"optimiser": "adamw", "nesterov": True}, "nesterov goes with sgd, not with adamw"),
    ({"projection": "vector"}, "unknown projection 'vector'"),
    ({"feature_size": 8}, "only with the loss 'features'"),
    ({"losses": ("labels", "features"), "feature_size": 0}, "1 or more"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG)
def test_options_that_make_no_sense_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        StepOptions(**wrong)
