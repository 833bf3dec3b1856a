from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from small_networks import CLASSES, SIZE, SLOTS, assert_close, learning_model, residual_net
from torch import Tensor

from pocketstep.compile import signatures as sig
from pocketstep.compile import training
from pocketstep.compile.lower import lower
from pocketstep.compile.oracle import Oracle
from pocketstep.compile.signatures import LearningModel, Quantisation, Signature
from pocketstep.compile.walk import initial_state
from pocketstep.plan import Preset

BATCH = 6
LIMIT = 1e-4
CUTS: dict[Preset, str | None] = {"centre": "group1", "last": None, "head": None, "full": "stem"}
NAMES = ("encode", "classify", "statistics", "solve", "score", "step")


class Compiled:
    """A tiny network's model, signatures and oracle for one preset."""

    def __init__(self, preset: Preset) -> None:
        self.model: LearningModel = learning_model(residual_net(), preset, CUTS[preset])
        batched = (sig.encode, sig.classify, sig.statistics, training.step, training.score)
        made = [sig.solve(self.model), *(make(self.model, BATCH) for make in batched)]
        self.signatures: dict[str, Signature] = {s.name: s for s in made}
        self.oracle = Oracle(self.model)

    def values(self, name: str, seed: int = 0) -> dict[str, Tensor]:
        """Random inputs of a signature; trained tensors are near the network's, one class slot is absent."""
        generator = torch.Generator().manual_seed(seed)
        trained = initial_state(self.model.network, self.model.plan)
        return {
            spec.name: self._value(spec.name, spec.shape, trained, generator) for spec in self.signatures[name].inputs
        }

    def _value(
        self, name: str, shape: tuple[int, ...], trained: Mapping[str, Tensor], generator: torch.Generator
    ) -> Tensor:
        noise = torch.randn(shape, generator=generator)
        if name in trained:
            return trained[name] + 0.05 * noise
        if name in FIXED:
            return torch.tensor(FIXED[name])
        if name == "images":
            return (noise * 60 + 120).clamp(0, 255).round()
        if name == "latents":
            return (noise * 40 - 60).clamp(-128, 127).round()
        if name == "labels":
            classes = torch.randint(CLASSES + 1, shape[:1], generator=generator)
            return torch.nn.functional.one_hot(classes, SLOTS).float() * (WEIGHTS > 0)[:, None]
        if name == "second":
            features = torch.randn(200, shape[0], generator=generator)
            return features.T @ features * 3
        if name.startswith("mask."):
            return (noise > -0.5).float()
        return noise


WEIGHTS = torch.tensor([1.0, 1, 0.5, 1, 0, 0])  # the last two are padding
FIXED: dict[str, list[float]] = {
    "label_weights": WEIGHTS.tolist(),
    "soft_weights": [0.0, 1, 1, 0.5, 0, 0],
    "class_mask": [1.0, 1, 1, 1, 0],
    "soft_mask": [1.0, 1, 1, 0, 0],
    "count": [80.0, 50, 40, 30, 0],
    "blend": [0.3],
    "shrinkage": [0.1],
    "learning_rate": [0.05],
    "momentum": [0.9],
    "weight_decay": [0.01],
    "temperature": [2.0],
    "distillation": [0.7],
    "factor.body": [3.0],
    "factor.head": [0.5],
}


@pytest.fixture(scope="module", params=CUTS)
def compiled(request: pytest.FixtureRequest) -> Compiled:
    return Compiled(request.param)


@pytest.mark.parametrize("name", NAMES)
def test_signature_agrees_with_autograd(compiled: Compiled, name: str) -> None:
    signature = compiled.signatures[name]
    for seed in range(3):
        values = compiled.values(name, seed)
        outputs = signature.function(values)
        expected = compiled.oracle.signatures[name](values)
        assert [o.name for o in signature.outputs] == list(outputs)
        for spec in signature.outputs:
            assert outputs[spec.name].shape == spec.shape
            assert_close(outputs[spec.name], expected[spec.name].detach(), f"{name}.{spec.name}", LIMIT)


def test_step_moves_what_it_may_and_nothing_else(compiled: Compiled) -> None:
    values = compiled.values("step")
    outputs = compiled.signatures["step"].function(values)
    for parameter in compiled.model.plan.trained:
        name = parameter.trained or ""
        free = values[f"mask.{name}"] > 0
        moved = outputs[name] != values[name]
        assert not moved[~free].any(), name
        assert moved[free].float().mean() > 0.5, name
    assert outputs["loss"].item() == pytest.approx(
        outputs["label_loss"].item() + 0.7 * outputs["soft_loss"].item(), rel=1e-5
    )


def test_padding_rows_change_nothing(compiled: Compiled) -> None:
    values = compiled.values("step")
    other = {**values, "latents": values["latents"].clone(), "soft_targets": values["soft_targets"].clone()}
    other["latents"][-2:], other["soft_targets"][-2:] = 17.0, 9.0
    step = compiled.signatures["step"].function
    for name, value in step(values).items():
        assert_close(step(other)[name], value, name, 1e-5)


def test_three_steps_are_one_sgd_over_three_steps(compiled: Compiled) -> None:
    """One torch.optim.SGD object and the network's own graph against state that goes in and out of the signature."""
    step, oracle = compiled.signatures["step"], compiled.oracle
    state = {k: v for k, v in compiled.values("step").items() if not k.startswith("mask.")}
    names = [p.trained or "" for p in compiled.model.plan.trained]
    masks = {f"mask.{name}": torch.ones_like(state[name]) for name in names}
    for name in names:
        state[f"momentum.{name}"] = torch.zeros_like(state[name])
    leaves = {name: state[name].clone().requires_grad_() for name in names}
    factor = {p.trained or "": FIXED[f"factor.{p.group}"][0] for p in compiled.model.plan.trained}
    groups = [{"params": [leaf], "lr": 0.05 * factor[name]} for name, leaf in leaves.items()]
    optimiser = torch.optim.SGD(groups, momentum=0.9, weight_decay=0.01)
    for seed in range(3):
        batch = {k: v for k, v in compiled.values("step", seed).items() if k in ("latents", "labels", "soft_targets")}
        state.update(batch)
        state.update(step.function({**state, **masks}))
        logits, _, _ = oracle.forward(state, leaves)
        present = logits.masked_fill(state["class_mask"] == 0, -1e30)
        each = torch.nn.functional.cross_entropy(present, state["labels"], reduction="none")
        loss = (each * WEIGHTS).sum() / WEIGHTS.sum() + 0.7 * oracle._distillation(state, logits)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        for name, leaf in leaves.items():
            assert_close(state[name], leaf.detach(), f"{name} after step {seed + 1}", LIMIT)
            buffer = optimiser.state[leaf]["momentum_buffer"]
            assert_close(state[f"momentum.{name}"], buffer, f"momentum of {name} after step {seed + 1}", LIMIT)


def test_score_adds_up(compiled: Compiled) -> None:
    score, values = compiled.signatures["score"], compiled.values("score")
    zeros = {s.name: torch.zeros(s.shape) for s in score.inputs if s.source == "statistics"}
    once = score.function({**values, **zeros})
    twice = score.function({**values, **once})
    for name in zeros:
        assert once[name].abs().max() > 0
        assert_close(twice[name], 2 * once[name], name, 1e-5)


@pytest.fixture(scope="module")
def centre() -> Compiled:
    return Compiled("centre")


FORBIDDEN = ("backward", "detach", "alias", "slice_scatter", "index", "scatter", "convolution_backward")


@pytest.mark.parametrize("name", NAMES)
def test_lowered_graph_is_inference_only_and_gives_the_same(centre: Compiled, name: str) -> None:
    signature = centre.signatures[name]
    graph = lower(signature)
    targets = [str(n.target) for n in graph.exported.graph.nodes if n.op == "call_function"]
    assert targets
    assert not [t for t in targets if any(word in t for word in FORBIDDEN)]
    assert all(t.startswith("aten.") for t in targets)
    values = centre.values(name, 7)
    inputs = [values[spec.name] for spec in signature.inputs]
    outputs = graph.exported.module()(*inputs)
    expected = signature.function(values)
    assert len(outputs) == len(signature.outputs)
    for spec, value in zip(signature.outputs, outputs, strict=True):
        assert_close(value, expected[spec.name], f"lowered {name}.{spec.name}", 1e-5)


def test_lowered_step_of_all_taps_gives_the_same() -> None:
    full = Compiled("full")
    signature, values = full.signatures["step"], full.values("step", 3)
    outputs = lower(signature).exported.module()(*[values[s.name] for s in signature.inputs])
    expected = signature.function(values)
    for spec, value in zip(signature.outputs, outputs, strict=True):
        assert_close(value, expected[spec.name], f"lowered step.{spec.name}", 1e-5)


@pytest.mark.parametrize("latents", [torch.tensor([-1.0, 0.0, 3.5]), torch.zeros(4), torch.tensor([7.0, 7.5])])
def test_quantisation_covers_the_range(latents: Tensor) -> None:
    q = Quantisation.of(latents)
    codes = ((latents - q.offset) / q.scale).round()
    assert codes.min() >= -128
    assert codes.max() <= 127
    assert (codes * q.scale + q.offset - latents).abs().max() <= q.scale / 2 * 1.01


def test_spare_slots_have_no_probability(compiled: Compiled) -> None:
    outputs = compiled.signatures["classify"].function(compiled.values("classify"))
    assert (outputs["probabilities"][:, -1] == 0).all()
    assert_close(outputs["probabilities"].sum(1), torch.ones(BATCH), "sum of probabilities", 1e-6)
    assert outputs["logits"].shape == (BATCH, SLOTS)


def test_encode_wants_the_bundles_images(centre: Compiled) -> None:
    (images,) = centre.signatures["encode"].inputs
    assert images.shape == (BATCH, SIZE, SIZE, 1)
    assert centre.signatures["encode"].outputs[0].shape == (BATCH, *centre.model.latent_shape)
