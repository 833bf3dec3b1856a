from __future__ import annotations

import pytest
import torch
from compiled_step import BATCH, CUTS, LIMIT, Compiled
from small_networks import SIZE, SLOTS, assert_close
from torch import Tensor

from pocketstep.compile.lower import lower
from pocketstep.compile.signatures import Quantisation
from pocketstep.plan import Preset

NAMES = ("encode", "classify", "statistics", "solve", "score", "step")


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


@pytest.mark.parametrize("name", ["classify", "statistics", "solve"])
@pytest.mark.parametrize("preset", CUTS)
def test_covariances_of_classes_own_agree_with_autograd(preset: Preset, name: str) -> None:
    quadratic = Compiled(preset, directions=16)
    signature, values = quadratic.signatures[name], quadratic.values(name)
    outputs, expected = signature.function(values), quadratic.oracle.signatures[name](values)
    for spec in signature.outputs:
        assert outputs[spec.name].shape == spec.shape
        assert_close(outputs[spec.name], expected[spec.name].detach(), f"{name}.{spec.name}", LIMIT)


@pytest.mark.parametrize("name", ["encode", "classify", "score", "step"])
def test_mirror_images_and_random_features_agree_with_autograd(name: str) -> None:
    both = Compiled("centre", expansion=40, mirrored=True)
    signature, values = both.signatures[name], both.values(name)
    outputs, expected = signature.function(values), both.oracle.signatures[name](values)
    for spec in signature.outputs:
        assert outputs[spec.name].shape == spec.shape
        assert_close(outputs[spec.name], expected[spec.name].detach(), f"{name}.{spec.name}", LIMIT)


def test_an_image_and_its_mirror_image_are_the_same_with_mirrored() -> None:
    both = Compiled("centre", mirrored=True)
    images = both.values("encode")["images"]
    found = []
    for seen in (images, images.flip(2)):
        latents = both.signatures["encode"].function({"images": seen})["latents"]
        found.append(both.signatures["classify"].function({**both.values("classify"), "latents": latents}))
    for name in ("logits", "features"):
        assert_close(found[1][name], found[0][name], name, 1e-5)


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


def test_lowered_graph_copies_nothing_in_vain(centre: Compiled) -> None:
    """No frame of nothing, no slice of everything: XNNPACK would copy the map."""
    aten, seen = torch.ops.aten, 0
    for node in lower(centre.signatures["step"]).exported.graph.nodes:
        if node.target in (aten.constant_pad_nd.default, aten.slice.Tensor):
            assert node.meta["val"].shape != node.args[0].meta["val"].shape, node.format_node()
            seen += 1
    assert seen > 0


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
